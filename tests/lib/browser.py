# SPDX-License-Identifier: GPL-2.0-or-later
"""A headless Chromium, spoken to through a pipe in the Chrome DevTools Protocol: opens pages, asks them, types, takes pictures, and
tells what they have complained of and asked the network for."""
import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile

SECONDS = 300  # for one answer

KEYS = {'Tab': 9, 'Enter': 13, ' ': 32}


class Browser:
    def __init__(self, process, to_browser, from_browser):
        self.process, self.to_browser, self.from_browser = process, to_browser, from_browser
        self.buffer, self.count, self.session = b'', 0, None
        self.events = []

    def receive(self):
        while b'\0' not in self.buffer:
            if not select.select([self.from_browser], [], [], SECONDS)[0]:
                raise RuntimeError('the browser does not answer')
            piece = os.read(self.from_browser, 1 << 16)
            if not piece:
                raise RuntimeError(f'the browser has ended with status {self.process.wait()}')
            self.buffer += piece
        message, self.buffer = self.buffer.split(b'\0', 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.count += 1
        message = {'id': self.count, 'method': method, 'params': parameters}
        if self.session:
            message['sessionId'] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b'\0')
        while True:
            answer = self.receive()
            if answer.get('id') == self.count:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']
            self.events.append(answer)

    def open(self, path, **features):
        """A page of its own; features: of media, such as prefers_color_scheme='dark'."""
        self.session = None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')
        self.call('Emulation.setEmulatedMedia', features=[{'name': name.replace('_', '-'), 'value': value}
                                                          for name, value in features.items()])
        self.events = []
        self.call('Page.navigate', url='file://' + path)
        while not any(event.get('method') == 'Page.loadEventFired' for event in self.events):
            self.events.append(self.receive())

    def ask(self, expression):
        """The value of an expression of JavaScript in the page."""
        answer = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        if 'exceptionDetails' in answer:
            raise RuntimeError(f'{expression}: {answer["exceptionDetails"]}')
        return answer['result'].get('value')

    def press(self, key):
        event = {'key': key, 'code': 'Space' if key == ' ' else key, 'windowsVirtualKeyCode': KEYS[key]}
        text = {'Enter': '\r', ' ': ' '}.get(key)
        self.call('Input.dispatchKeyEvent', type='keyDown', **event, **({'text': text} if text else {}))
        self.call('Input.dispatchKeyEvent', type='keyUp', **event)

    def resize(self, width, height):
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path):
        picture = self.call('Page.captureScreenshot', captureBeyondViewport=True, format='png')
        with open(path, 'wb') as file:
            file.write(base64.b64decode(picture['data']))

    def complaints(self):
        """What the page has written to its console, or was refused."""
        self.ask('0')
        return [event['params'] for event in self.events
                if event.get('method') in ('Runtime.exceptionThrown', 'Runtime.consoleAPICalled', 'Log.entryAdded')]

    def requests(self):
        """Everything that was asked for since the page was opened."""
        self.ask('0')
        return [event['params']['request']['url'] for event in self.events
                if event.get('method') == 'Network.requestWillBeSent']


@contextlib.contextmanager
def browser():
    """As root Chromium has no sandbox, and in a container little shared memory."""
    command = shutil.which('chromium')
    if not command:
        raise RuntimeError('there is no chromium; tools/setup-debian --tests installs it')
    child_reads, to_browser = os.pipe()
    from_browser, child_writes = os.pipe()
    with tempfile.TemporaryDirectory(prefix='zcfs-browser-', ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            ['/bin/sh', '-c', f'exec "$@" 3<&{child_reads} 4>&{child_writes}', 'sh', command, '--headless=new', '--no-sandbox',
             '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars', '--no-first-run', '--disable-background-networking',
             f'--user-data-dir={home}', '--remote-debugging-pipe'],
            pass_fds=(child_reads, child_writes), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, 'HOME': home})
        os.close(child_reads)
        os.close(child_writes)
        try:
            yield Browser(process, to_browser, from_browser)
        finally:
            process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(to_browser)
            os.close(from_browser)
