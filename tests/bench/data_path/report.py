# SPDX-License-Identifier: GPL-2.0-or-later
"""A run as Markdown."""
from data_path.summary import iops, rate, server_cpu, total_cpu
from data_path.targets import through, verdicts


def table(head, rows):
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '--|' + '--:|' * (len(head) - 1)]
    lines += ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join(lines) + '\n'


def number(value):
    if value is None:
        return ''
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def used(peers, columns):
    """Columns without a single value are left out."""
    return [peer for i, peer in enumerate(peers) if any(row[i] for row in columns)]


def medians(results, medium, rows, peers):
    def cell(row, peer):
        what = rate if row.unit == 'MiB/s' else iops
        value = results.median(medium, row.name, peer, what)
        if value is None:
            return 'failed' if (medium, row.name, peer) in results.samples else ''
        return f'{number(value)} ±{results.spread(medium, row.name, peer, what):.0%}'
    return table(['', *peers], [[f'{row.name}, {row.unit}', *(cell(row, peer) for peer in peers)] for row in rows])


def ratios(results, medium, rows, peers):
    """zcfs beside the others, one column a pair."""
    pairs = [(peer, other) for peer in peers if peer.startswith('zcfs') for other in ('raw', 'qsd-raw', transport(peer))
             if peer in ('zcfs-plain', 'zcfs-1', 'zcfs-1-clone') and other]
    lines = []
    for row in rows:
        values = [results.ratio(medium, row.name, peer, through(other, row)) for peer, other in pairs]
        lines.append([row.name, *('' if v is None else f'{v:.2f}' for v in values)])
    return table(['', *(f'{peer} / {other}' for peer, other in pairs)], lines)


def transport(peer):
    return {'zcfs-plain': 'hp-pass', 'zcfs-1': 'hp-uring', 'zcfs-1-clone': 'hp-clone'}.get(peer)


def cpu(results, medium, rows, peers):
    def cell(row, peer):
        server = results.median(medium, row.name, peer, server_cpu)
        total = results.median(medium, row.name, peer, total_cpu)
        return '' if total is None else f'{server:.2f} / {total:.2f}'
    return table(['', *peers], [[row.name, *(cell(row, peer) for peer in peers)] for row in rows])


def memory(results, medium, peers, extents):
    lines = []
    for peer in peers:
        samples = [s for row in results.rows(medium) for s in results.good(medium, row, peer) if s['server_kib']]
        if samples:
            lines.append([peer, f'{extents[peer]:,}' if extents.get(peer) else '', f'{max(s["server_kib"] for s in samples) / 1024:.1f}',
                          f'{sorted(s["open_seconds"] for s in samples)[len(samples) // 2] * 1000:.1f}'])
    return table(['', 'extents', 'most memory, MiB', 'first open, ms'], lines)


def target_table(results, rows):
    """Each target once: how many comparisons meet it, and those that do not."""
    by_target = {}
    for verdict in verdicts(results, rows):
        by_target.setdefault(verdict.target, []).append(verdict)
    lines = []
    for target, all_of in by_target.items():
        missed = [v for v in all_of if not v.met]
        worst = min(all_of, key=lambda v: v.reached / v.wanted)
        lines.append([target, f'{len(all_of) - len(missed)} of {len(all_of)}', 'met' if not missed else '**not met**',
                      f'{worst.row}: {worst.peer} / {worst.other} = {worst.reached:.2f}, wanted {worst.wanted}'])
    text = table(['target', 'comparisons that meet it', '', 'the weakest'], lines)
    for target, all_of in by_target.items():
        missed = [v for v in all_of if not v.met]
        if missed:
            text += f'\nNot met, {target}: ' + '; '.join(
                f'{v.row}: {v.peer} / {v.other} {v.reached:.2f}{"?" if v.close else ""}' for v in missed) + '.\n'
    return text + '\nA question mark: the ranges of the samples overlap.\n'


def markdown(results, rows, run, plots):
    """run: the description of the run, as in the JSON file."""
    parts = [f'# Data path, {run["date"]}\n\n'
             'Written by `tests/bench/bench-data-path`, which explains the peers and rows (`--help`). Medians of '
             f'{results.rounds()} interleaved rounds of {run["seconds"]} s a cell, ± half the range. '
             f'Image: {run["size"] >> 20} MiB. zcfs: {run["zcfs"]}.\n',
             ''.join(f'- {key}: {value}\n' for key, value in run['machine'].items())]
    parts.append('## Targets\n\n' + target_table(results, rows))
    for medium in results.media():
        present = [row for row in rows if row.name in results.rows(medium)]
        peers = results.peers(medium)
        heading = {'tmpfs': 'On tmpfs: what the software costs', 'disk': 'On disk'}[medium]
        parts.append(f'## {heading}\n')
        parts += [f'![{medium}]({plot})\n' for plot in plots.get(medium, [])]
        parts.append(medians(results, medium, present, peers))
        parts.append('Times as fast; buffered writes against the peers that write through:\n')
        parts.append(ratios(results, medium, present, peers))
        parts.append('CPU seconds for a GiB moved: the server\'s / with those of fio, in whose system calls the kernel works:\n')
        parts.append(cpu(results, medium, present, peers))
        parts.append(memory(results, medium, peers, run['extents']))
    if results.errors():
        parts.append('## Failed cells\n\n' + ''.join(f'- {m}, {row}, {peer}: {error.splitlines()[-1] if error else ""}\n'
                                                    for m, row, peer, error in results.errors()))
    return '\n'.join(parts)
