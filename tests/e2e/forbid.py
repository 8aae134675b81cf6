"""Runs a command in which some system calls fail, as in containers whose seccomp profile forbids them.

    forbid.py io_uring_setup=EPERM,cachestat=ENOSYS,O_DIRECT=EINVAL COMMAND...

O_DIRECT stands for fcntl(F_SETFL) that sets it, O_TMPFILE for openat of such a file. Exit status 77: seccomp is not to be had here.
"""
import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys

NUMBERS = {"io_uring_setup": (425, 425), "cachestat": (451, 451), "fcntl": (72, 25), "fallocate": (285, 47),
           "sync_file_range": (277, 84), "fadvise64": (221, 223), "openat": (257, 56)}  # x86-64, aarch64
LOAD, EQUAL, BITS, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
ARGUMENT = [16, 24, 32]  # low halves, in struct seccomp_data


def number(name):
    return NUMBERS[name][platform.machine() != "x86_64"]


def rule(what):
    """-> instructions (code, jump if true, jump if false, operand)"""
    name, error = what.split("=")
    answer = (RETURN, 0, 0, ERRNO | getattr(errno, error))
    if name == "O_TMPFILE":
        return [(LOAD, 0, 0, 0), (EQUAL, 0, 3, number("openat")), (LOAD, 0, 0, ARGUMENT[2]), (BITS, 0, 1, os.O_TMPFILE & ~os.O_DIRECTORY), answer]
    if name != "O_DIRECT":
        return [(LOAD, 0, 0, 0), (EQUAL, 0, 1, number(name)), answer]
    return [(LOAD, 0, 0, 0), (EQUAL, 0, 5, number("fcntl")), (LOAD, 0, 0, ARGUMENT[1]), (EQUAL, 0, 3, fcntl.F_SETFL),
            (LOAD, 0, 0, ARGUMENT[2]), (BITS, 0, 1, os.O_DIRECT), answer]


def main():
    program = [i for what in sys.argv[1].split(",") if what for i in rule(what)] + [(RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in program))
    filters = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    if (libc.prctl(no_new_privileges, 1, 0, 0, 0) or
            libc.prctl(set_seccomp, filter_mode, ctypes.c_void_p(ctypes.addressof(filters)), 0, 0)):
        print(f"seccomp: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(77)
    os.execvp(sys.argv[2], sys.argv[2:])


main()
