# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of bench-data-path.

machine    what is measured on, and the kernel parameter that FUSE over io_uring needs
media      where the images lie: disk or tmpfs; one data file that every peer serves in turn
peers      those that serve it: zcfs, qemu-storage-daemon, libfuse's passthrough_hp, nobody (the raw file)
workloads  what fio does to it, a row of the tables each
measure    one cell: a peer, a row, a sample
summary    medians, spreads, ratios, and whether the targets are met
report     Markdown; plot: SVG
"""
