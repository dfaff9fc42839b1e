# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes whose metadata claims sizes that no memory holds, on a disk of nearly 16 TiB, which is as much as NTFS can be believed
to have: refused with a reason, soon, and with little memory."""
import os
import resource
import subprocess
import sys
import tempfile
import threading

from commands import DAMAGED, DONE, MAKERS, NTFS_POPULATE, NTFS_SCATTER, REFUSED, ZCFS_DEFRAG, unmount_on_termination, workspace
from guest import run
from tap import Cases, holds

sys.path.insert(0, MAKERS)
import ntfs_image as ntfs  # pylint: disable=wrong-import-position
from ntfs_image import Volume, put  # pylint: disable=wrong-import-position

SIZE = 15900 << 30       # ext4's files end at 16 TiB
CLUSTER = 65536
SECONDS = 300            # more is a hang: the pass over the undamaged volume takes less than one
AREA = 1 << 22           # LCN of free space; short enough for any run list
MEMORY = 256 << 20       # the undamaged volume takes 10 MiB
ADDRESS_SPACE = 5 << 30
MFT, LOG, ATTRDEF, UPCASE = 0, 2, 4, 10


def set_sizes(attribute, clusters, cluster_size):
    attribute.put('Q', 24, clusters - 1)
    for offset in (40, 48, 56):
        attribute.put('Q', offset, clusters * cluster_size)


def lengthen(volume, number, runs, kind=ntfs.DATA):
    """Gives an attribute these runs, and the sizes that follow."""
    record = volume.record(number)
    attribute = record.find(kind, nonresident=1)
    attribute.put_runs(runs)
    set_sizes(attribute, sum(length for _, _, length in runs), volume.cluster_size)
    record.save()


def nothing(volume):
    """no damage"""


def mft_of_terabytes(volume):
    """an $MFT of 2^32 records, all of them holes of the host's file"""
    lengthen(volume, MFT, [(0, volume.mft_lcn, 2**32 * volume.record_size // volume.cluster_size)])


def mft_of_half(volume):
    """an $MFT of 2^31 records"""
    lengthen(volume, MFT, [(0, volume.mft_lcn, 2**31 * volume.record_size // volume.cluster_size)])


def mft_repeated(volume):
    """an $MFT whose run list repeats its records as often as it can"""
    attribute = volume.record(MFT).find(ntfs.DATA)
    room = attribute.length - attribute.get('H', 32)
    runs = [(0, volume.mft_lcn, 1)]
    while len(ntfs.encode_pairs(runs + runs[:1])) <= room:
        runs += runs[:1]
    holds(len(runs) > 1, 'no room to repeat anything')
    lengthen(volume, MFT, runs)


def mft_claims(volume):
    """an $MFT whose sizes claim 2^32 records"""
    record = volume.record(MFT)
    for offset in (40, 48, 56):
        record.find(ntfs.DATA).put('Q', offset, 2**32 * volume.record_size)
    record.save()


def upcase_of_gigabytes(volume):
    """an $UpCase of 2 GiB"""
    lengthen(volume, UPCASE, [(0, AREA, (2 << 30) // volume.cluster_size - 1)])


def definitions_of_gigabytes(volume):
    """an $AttrDef of 2 GiB"""
    lengthen(volume, ATTRDEF, [(0, AREA, (2 << 30) // volume.cluster_size - 1)])


def log_page_of_gigabytes(volume):
    """a $LogFile whose restart page is 1 GiB long"""
    record = volume.record(LOG)
    record.find(ntfs.DATA).put_runs([(0, AREA, (4 << 30) // volume.cluster_size - 1)])
    set_sizes(record.find(ntfs.DATA), (4 << 30) // volume.cluster_size - 1, volume.cluster_size)
    record.save()
    page = bytearray(64)
    page[:4] = b'RSTR'
    put('H', page, 4, 30)
    put('H', page, 6, 9)
    put('I', page, 16, 1 << 30)
    put('I', page, 20, 4096)
    put('H', page, 24, 48)
    put('H', page, 26, 1)
    put('H', page, 28, 1)
    volume.write_at(AREA * volume.cluster_size, page)


def fragmented(volume):
    return next(r for r in volume.base_records() if (a := r.find(ntfs.DATA, nonresident=1)) and a.length >= 88)


def endless_run(volume):
    """a file with a run of 2^60 clusters"""
    record = fragmented(volume)
    record.find(ntfs.DATA).put_runs([(0, 100, 2**60)])
    record.save()


def endless_hole(volume):
    """a file with a hole of 2^60 clusters"""
    record = fragmented(volume)
    attribute = record.find(ntfs.DATA)
    attribute.put_runs([(0, None, 2**60)])
    attribute.put('Q', 24, 2**60 - 1)
    record.save()


def give_list(volume, record):
    """Puts an attribute list of 1 GiB into a record, in place of the one that it may have."""
    old = record.find(ntfs.LIST)
    if old:
        record.remove(old)
    clusters, end = (1 << 30) // volume.cluster_size, ntfs.get('I', record.buffer, 24)
    pairs = ntfs.encode_pairs([(0, AREA, clusters)])
    length = -(-(64 + len(pairs)) // 8) * 8
    holds(end + length <= len(record.buffer), 'room in the record')
    attribute = bytearray(length)
    put('I', attribute, 0, ntfs.LIST)
    put('I', attribute, 4, length)
    attribute[8] = 1
    put('H', attribute, 14, 99)
    put('Q', attribute, 24, clusters - 1)
    put('H', attribute, 32, 64)
    for offset in (40, 48, 56):
        put('Q', attribute, offset, 1 << 30)
    attribute[64:64 + len(pairs)] = pairs
    at = next(a for a in record.attributes() if a.type > ntfs.LIST).at
    record.buffer[at:end + length] = attribute + record.buffer[at:end]
    put('I', record.buffer, 24, end + length)
    record.save()


def list_of_a_gigabyte(volume):
    """a file with an attribute list of 1 GiB"""
    give_list(volume, next(r for r in volume.base_records() if r.find(ntfs.LIST)))


def list_of_mft_of_a_gigabyte(volume):
    """$MFT with an attribute list of 1 GiB"""
    give_list(volume, volume.record(MFT))


ATTACKS = (nothing, mft_of_terabytes, mft_of_half, mft_repeated, mft_claims, upcase_of_gigabytes, definitions_of_gigabytes, log_page_of_gigabytes,
           endless_run, endless_hole, list_of_a_gigabyte, list_of_mft_of_a_gigabyte)


def make_volume(path):
    with open(path, 'xb') as image:
        image.truncate(SIZE)
    run('mkntfs', '--quiet', '--force', '--fast', '--cluster-size', str(CLUSTER), path)
    run(NTFS_POPULATE, '--quiet', '--files', '3', '--file-size', '20M..30M', path)
    run(NTFS_POPULATE, '--quiet', '--seed', '2', '--files', '3', '--file-size', '400K..600K', path)
    run(NTFS_SCATTER, '--quiet', '--max-run', '1', '--free-pieces', '500', path)


def limit_memory():
    """So that what this test finds is not the end of the machine."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def bounded(cases, attack, image):
    with cases.case(f'{attack.__doc__}: an answer soon, with little memory'):
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen([ZCFS_DEFRAG, '--dry-run', image], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       preexec_fn=limit_memory)
            watchdog = threading.Timer(SECONDS, process.kill)
            watchdog.start()
            _, status, usage = os.wait4(process.pid, 0)
            watchdog.cancel()
            out.seek(0)
            text = out.read().decode()
        expected = (DONE,) if attack is nothing else (DAMAGED, REFUSED)
        holds(os.WIFEXITED(status) and os.WEXITSTATUS(status) in expected, f'status {status:#x}: {text}')
        holds(usage.ru_maxrss << 10 <= MEMORY, f'{usage.ru_maxrss} KiB of memory: {text}')
        print(f'# {usage.ru_maxrss} KiB: {text.splitlines()[0]}')


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        original, image = os.path.join(directory, 'original'), os.path.join(directory, 'a.img')
        make_volume(original)
        for attack in ATTACKS:
            run('cp', '--sparse=always', '--reflink=auto', original, image)
            with Volume(image) as volume:
                attack(volume)
            bounded(cases, attack, image)
            os.unlink(image)
    cases.finish()


main()
