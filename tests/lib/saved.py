# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of saved domains, as they begin: what names the domain and its disks."""
import json
import struct


def save_by_xl(path, disk):
    """xl save."""
    config = json.dumps({'c_info': {'name': 'win7'}, 'disks': [{'pdev_path': disk, 'vdev': 'xvda'}]}).encode() + b'\0'
    with open(path, 'wb') as file:
        file.write(b'Xen saved domain, xl format\n \0 \r' + struct.pack('=IIII', 0x01020304, 3, 0, len(config) + 4)
                   + struct.pack('=I', len(config)) + config + b'LibxlFmt' + bytes(4096))


def save_by_libvirt(path, disk):
    """virsh managedsave, of a guest of QEMU."""
    xml = ("<domain type='kvm'>\n  <name>win7</name>\n  <devices>\n    <disk type='file' device='disk'>\n"
           f"      <source file='{disk}'/>\n    </disk>\n  </devices>\n</domain>\n").encode() + b'\0'
    with open(path, 'wb') as file:
        file.write(b'LibvirtQemudSave' + struct.pack('=IIIII', 2, len(xml), 1, 0, 0) + bytes(56) + xml + bytes(4096))
