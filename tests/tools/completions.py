# SPDX-License-Identifier: GPL-2.0-or-later
"""The completions for bash, zsh and fish, in the shells themselves. The argument: where the build has put them."""
import os
import re
import shutil
import subprocess
import sys

from guest import run
from tap import Cases, Skip, equal, holds

COMMANDS = {name: os.environ[name.upper().replace('-', '_')] for name in ('zcfs-check', 'zcfs-defrag', 'zcfs-map')}

BASH = r'''
source /usr/share/bash-completion/bash_completion; source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDS=($2) COMP_CWORD=1; _zcfs "${COMP_WORDS[@]}"; printf '%s\n' "${COMPREPLY[@]}"
'''
ZSH = r'''
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PROMPT=; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D; bindkey '^I' complete-word; echo rea''dy"
zpty -r -m shell out '*ready*'
zpty -w -n shell "$2"$'\t'
zpty -r -m shell out "*$3*" && echo found
'''


def shell(name, *arguments):
    if not shutil.which(name):
        raise Skip(f'{name} is not installed')
    path = os.pathsep.join([*{os.path.dirname(command) for command in COMMANDS.values()}, os.environ['PATH']])
    return run(name, *arguments, timeout=300, env=dict(os.environ, PATH=path, TERM='dumb'))


def options_of(command):
    """All that the command's help and manual page name; getopt knows, too, which options there are."""
    page = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'tools', f'{command}.8')
    with open(page, encoding='utf-8') as manual:
        named = {'--' + name for name in re.findall(r'^\.It (?:Fl \w , )?Fl -?([a-z-]{2,})', manual.read(), re.MULTILINE)}
    return named | set(re.findall(r'(?<![\w-])--[a-z][a-z-]+', run(COMMANDS[command], '--help')))


def main():
    bash, zsh, fish = (os.path.join(sys.argv[1], name) for name in ('zcfs.bash', '_zcfs', 'zcfs.fish'))
    cases = Cases()
    for command in COMMANDS:
        with cases.case(f'bash knows all options of {command}'):
            offered = {word.rstrip('=') for word in shell('bash', '-c', BASH, 'bash', bash, command + ' --').split()}
            equal(options_of(command) - offered, set(), 'what is missing')
        with cases.case(f'fish knows all options of {command}'):
            offered = {word.rstrip('=') for word in shell('fish', '-c', f'source {fish}; complete -C "{command} --"').split()}
            equal(options_of(command) - offered, set(), 'what is missing')
    for line, wanted in (('zcfs-defrag --anal', '--analy'), ('zcfs-defrag --volu', '--volume='), ('zcfs-map --summ', '--summary'),
                         ('zcfs-check --rep', '--repair'), ('zcfs --vers', '--version')):
        with cases.case(f'zsh completes: {line}'):
            holds('found' in shell('zsh', '-f', '-c', ZSH, 'zsh', os.path.dirname(zsh), line, wanted), 'it does not')
        with cases.case(f'bash completes: {line}'):
            holds(wanted in shell('bash', '-c', BASH, 'bash', bash, line), 'it does not')
    with cases.case('bash knows what --plain and --verify take'):
        equal(shell('bash', '-c', BASH, 'bash', bash, 'zcfs-defrag --verify=').split(), ['data'], 'what it offers')
    cases.finish()


main()
