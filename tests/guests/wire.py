"""What the host heard on the cable: the witness's numbers, per guest, in the order of time.

qemu itself writes down what a guest sends, so that nothing in a guest, and nothing of `migrate`, can embellish it.
"""
import re
import struct

NUMBER = re.compile(rb"migrate-witness (\d+)\n")
FILE_HEADER, PACKET_HEADER = 24, 16
SOURCE_ADDRESS = slice(6, 12)


def heard(path, mac):
    """Yields (time, number) of every datagram of the witness that the machine with this address sent."""
    with open(path, "rb") as file:
        data = file.read()
    at = FILE_HEADER
    while at + PACKET_HEADER <= len(data):
        seconds, micros, captured, _ = struct.unpack_from("<IIII", data, at)
        packet = data[at + PACKET_HEADER:at + PACKET_HEADER + captured]
        at += PACKET_HEADER + captured
        found = NUMBER.search(packet)
        if found and packet[SOURCE_ADDRESS] == mac:
            yield seconds + micros / 1e6, int(found.group(1))


def fault(told):
    """What is wrong with [(time, number, guest)] of one life of the witness; None where nothing is."""
    told = sorted(told)
    for (_, before, there), (_, number, here) in zip(told, told[1:]):
        if number <= before:
            return f"{here} said {number} after {there} had said {before}"
    return None
