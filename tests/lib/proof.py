# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest pass promises about one image, checked from outside: by the image's bytes, its map database, an independent
NTFS checker and two readers of NTFS. The store is not mounted while these look at it."""
import bisect
import os
import shutil
import struct

from commands import attribute_holes, attribute_runs, check_ntfs, defrag_report, lost_clusters
from guest import hash_files_through_driver, hash_files_through_sleuthkit, run
from host import changed_ranges, data_path, differing_ranges, digest, outside, read_extents, state_of, write_view
from tap import equal, holds
from unmoved import everything_but_places, was_freed

ATTRIBUTE_LIST = '0x20'
TIMES = ('seconds', 'phase_seconds', 'child_peak_kib')


def cluster_size(view, off):
    with open(view, 'rb') as file:
        file.seek(off + 11)
        sector, per_cluster = struct.unpack('<HB', file.read(3))
    return sector * (1 << 256 - per_cluster if per_cluster > 0x80 else per_cluster)


def push_merged(pieces, piece):
    """Adds (where, from, length), joined to the last one if it goes on on both sides."""
    if pieces and pieces[-1][0] + pieces[-1][2] == piece[0] and pieces[-1][1] + pieces[-1][2] == piece[1]:
        pieces[-1] = (pieces[-1][0], pieces[-1][1], pieces[-1][2] + piece[2])
    else:
        pieces.append(piece)


def actual_mapping(runs, extents, off, cluster):
    """attribute -> [(offset in the attribute, offset in the data file, length)]: the composition of both mappings."""
    starts = [extent[0] for extent in extents]
    mapping = {}
    for attribute, pieces in runs.items():
        mapped = mapping.setdefault(attribute, [])
        for vcn, lcn, clusters in pieces:
            guest_off, attribute_off, length = off + lcn * cluster, vcn * cluster, clusters * cluster
            while length > 0:
                extent = extents[bisect.bisect_right(starts, guest_off) - 1]
                skip = guest_off - extent[0]
                part = min(length, extent[1] - skip)
                push_merged(mapped, (attribute_off, extent[2] + skip, part))
                guest_off, attribute_off, length = guest_off + part, attribute_off + part, length - part
    return mapping


def pieces_of(runs):
    """In how many pieces an attribute's clusters lie; a hole between two adjacent ones separates nothing."""
    return sum(1 for i, (_, lcn, _) in enumerate(runs) if i == 0 or runs[i - 1][1] + runs[i - 1][2] != lcn)


class Volume:
    """What the checker and two readers find on one volume of a view."""
    def __init__(self, view, off, length, extents, scratch):
        self.findings = check_ntfs(view, off)
        self.runs = attribute_runs(view, off)
        self.holes = attribute_holes(view, off)
        self.lost = '' if self.findings else lost_clusters(view, off)
        self.unmoved = everything_but_places(view, off)
        self.mapping = actual_mapping(self.runs, extents, off, cluster_size(view, off))
        alone = os.path.join(scratch, 'volume')
        cut_out(view, off, length, alone)
        self.driver = hash_files_through_driver(alone)
        self.sleuthkit = hash_files_through_sleuthkit(alone)
        os.unlink(alone)

    def fragments(self):
        return sum(pieces_of(runs) for runs in self.runs.values())


def cut_out(source, off, length, target):
    run('dd', f'if={source}', f'of={target}', 'bs=64K', f'skip={off}', f'count={length}',
        'iflag=skip_bytes,count_bytes', 'conv=sparse', 'status=none')
    os.truncate(target, length)


class Snapshot:
    """An image as it is now. Volumes: (offset, length) pairs."""
    def __init__(self, image, volumes, scratch):
        self.data = os.path.join(scratch, f'data-{len(os.listdir(scratch))}')
        shutil.copy(data_path(image), self.data)
        self.extents = read_extents(image)
        view = os.path.join(scratch, 'view')
        write_view(image, view)
        self.view_digest = digest(view)
        self.volumes = {off: Volume(view, off, length, self.extents, scratch) for off, length in volumes}
        os.unlink(view)

    def host_bytes(self):
        """All host bytes that are mapped, as sorted, merged ranges; an alias would show as an overlap."""
        merged = []
        for start, end in sorted((host_off, host_off + length) for _, length, host_off in self.extents):
            holds(not merged or merged[-1][1] <= start, f'host byte {start} is mapped twice')
            if merged and merged[-1][1] == start:
                merged[-1][1] = end
            else:
                merged.append([start, end])
        return merged


def done_volumes(report):
    return [volume for volume in report['volumes'] if volume['result'] == 'done']


def what_was_done(report):
    """Without what a pass and its dry run differ in: times, and the worst files, of which a pass does not tell."""
    done = {name: value for name, value in report.items() if name not in TIMES + ('changed',)}
    done['volumes'] = [{name: value for name, value in volume.items() if name != 'worst'} for volume in report['volumes']]
    return done


def prove_promise(promise, done, what='report'):
    """Whatever an analysis says the pass says as well, above all what it costs."""
    for name, value in promise.items():
        if name in TIMES + ('changed', 'worst'):
            continue
        if name == 'volumes':
            for here, there in zip(value, done['volumes'], strict=True):
                prove_promise(here, there, f'volume {here["number"]}')
        elif isinstance(value, dict):
            prove_promise(value, done[name], f'{what}: {name}')
        else:
            equal(done[name], value, f'{what}: {name}')


def prove_mapping(before, after):
    """Every cluster of every attribute is at the host byte where it was. Attribute lists that are no longer needed are
    the only thing that may go."""
    for attribute, pieces in before.items():
        if attribute in after:
            equal(after[attribute], pieces, f'the actual mapping of {attribute}')
        else:
            holds(attribute[1] == ATTRIBUTE_LIST, f'{attribute} is gone')
    holds(set(after) <= set(before), f'new: {set(after) - set(before)}')


def prove_pass(cases, name, image, scratch, options=()):
    """All promises of a pass over one image in an unmounted store, and of taking it back."""
    store = os.path.dirname(image)
    analysis = defrag_report('--analyze', image)
    places = [(volume['off'], volume['length']) for volume in done_volumes(analysis)]
    before = Snapshot(image, places, scratch)
    state = state_of(store)
    with cases.case(f'{name}: a dry run changes nothing'):
        prediction = defrag_report('--dry-run', *options, image)
        equal(state_of(store), state, 'the store')
    report = None
    with cases.case(f'{name}: the pass succeeds and does what the dry run said'):
        report = defrag_report(*options, image)
        equal(what_was_done(report), what_was_done(prediction), 'the report')
        equal(report['data_bytes_copied'], 0, 'file data copied')
    if '--pack' not in options:
        with cases.case(f'{name}: it does, and costs, what the analysis said'):
            holds('after' in analysis['extents'], 'the analysis does not say what it costs')
            prove_promise(analysis, report)
    if report is None:
        return
    after = Snapshot(image, places, scratch)
    prove_volumes(cases, name, report, before, after)
    prove_bytes(cases, name, image, report, before, after)
    prove_repeat_and_undo(cases, name, image, options, report, before)


def prove_second_reader(old, new):
    """A file in 200,000 pieces is more than The Sleuth Kit reads rightly: then what it reads afterwards is what ntfs-3g does."""
    misread = {path for path, digest_ in old.sleuthkit.items() if old.driver.get(path, digest_) != digest_}
    for path in misread & set(new.sleuthkit):
        holds(new.sleuthkit[path] in (old.sleuthkit[path], old.driver[path]), f'The Sleuth Kit reads {path} otherwise')
    without = lambda hashes: {path: digest_ for path, digest_ in hashes.items() if path not in misread}
    equal(set(new.sleuthkit), set(old.sleuthkit), 'the files that The Sleuth Kit finds')
    equal(without(new.sleuthkit), without(old.sleuthkit), 'what The Sleuth Kit reads')


def prove_volumes(cases, name, report, before, after):
    for volume in done_volumes(report):
        old, new = before.volumes[volume['off']], after.volumes[volume['off']]
        what = f'{name}: volume {volume["number"]}'
        with cases.case(f'{what}: consistent afterwards'):
            equal(new.findings, old.findings, 'what ntfs-check finds')
            equal(new.lost, old.lost, 'clusters that are marked and nobody\'s')
        with cases.case(f'{what}: every cluster of every attribute at the host byte where it was'):
            prove_mapping(old.mapping, new.mapping)
        with cases.case(f'{what}: every hole at the cluster of its attribute where it was'):
            equal(new.holes, old.holes, 'the holes')
        with cases.case(f'{what}: nothing of {len(old.unmoved)} attributes and records is another but their places'):
            for what_of, was in old.unmoved.items():
                if what_of[1] == 'extension' and what_of not in new.unmoved:
                    holds(was_freed(was, new.unmoved[what_of[0], 'unused']), f'{what_of} is neither there nor freed')
                else:
                    equal(new.unmoved.get(what_of), was, f'{what_of}')
            fresh = [key for key in new.unmoved if key not in old.unmoved and key[-1] != 'unused']
            equal(fresh, [], 'what was not there before')
        with cases.case(f'{what}: {len(old.driver)} files and streams the same through ntfs-3g'):
            equal(new.driver, old.driver, 'what ntfs-3g reads')
        if old.sleuthkit is None:
            print(f'# {what}: The Sleuth Kit cannot read it')
        else:
            with cases.case(f'{what}: {len(old.sleuthkit)} files the same through The Sleuth Kit'):
                prove_second_reader(old, new)
        with cases.case(f'{what}: everything in one piece but what it says stays'):
            several = {key: pieces_of(runs) for key, runs in new.runs.items() if pieces_of(runs) > 1}
            equal(len(several), volume['stay_count'], f'the number of attributes in several pieces {several}')
            equal(volume['fragmented_attributes']['after'], volume['stay_count'], 'fragmented attributes')
            equal((volume['fragments']['before'], volume['fragments']['after']), (old.fragments(), new.fragments()),
                  'fragments')


def prove_bytes(cases, name, image, report, before, after):
    with cases.case(f'{name}: of the host\'s file nothing differs but the metadata that was recorded'):
        different = differing_ranges(before.data, after.data)
        if report['changed']:
            recorded = changed_ranges(os.path.join(image, 'map.db'))
            equal(outside(different, recorded), 0, 'bytes changed elsewhere')
            equal(sum(end - start for start, end in recorded), report['metadata_bytes'], 'metadata recorded')
        else:
            equal(different, [], 'what differs')
    with cases.case(f'{name}: the same host bytes are mapped, each once'):
        equal(after.host_bytes(), before.host_bytes(), 'mapped host bytes')
        equal((len(before.extents), len(after.extents)), (report['extents']['before'], report['extents']['after']),
              'the number of extents')


def prove_repeat_and_undo(cases, name, image, options, report, before):
    store = os.path.dirname(image)
    if '--pack' not in options:
        with cases.case(f'{name}: a second pass finds nothing to do'):
            state = state_of(store)
            again = defrag_report(*options, image)
            equal(again['changed'], False, 'changed')
            equal(state_of(store), state, 'the store')
    if report['changed']:
        with cases.case(f'{name}: --undo brings back every byte that the guest saw'):
            defrag_report('--undo', image)
            view = before.data + '.undone'
            write_view(image, view)
            equal(digest(view), before.view_digest, 'the guest\'s view')
            os.unlink(view)
            history = run('sqlite3', os.path.join(image, 'map.db'), 'SELECT operation, extents_after FROM run ORDER BY id DESC LIMIT 1')
            equal(history, f'undo|{len(before.extents)}\n', 'the last row of the history')
