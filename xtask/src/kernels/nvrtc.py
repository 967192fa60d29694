"""Compiles CUDA sources with NVRTC: a job per line of standard input, an answer per line of standard output, in JSON.

    python3 nvrtc.py NVRTC_FOLDER

A job is {"source": PATH, "options": [...], "ptx": BOOL, "output": PATH}; the answer to it {"ok": BOOL, "log": TEXT}.
The first line is {"version": "12.9"}. Only Python itself is needed: the compiler is a shared library.
"""

import ctypes
import json
import pathlib
import sys


class Nvrtc:
    def __init__(self, folder):
        # NVRTC looks for its builtins by name, in no particular folder, unless they are loaded already.
        for builtins in sorted(folder.glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name}: {self.library.nvrtcGetErrorString(code).decode()}")

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def text(self, program, what):
        """What nvrtcGetWHAT writes, of the size that nvrtcGetWHATSize says."""
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def compile(self, source, options, ptx, output):
        program = ctypes.c_void_p()
        # The name stands in messages and must not differ between checkouts: the images are to be reproducible.
        self.call("nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
        try:
            flags = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
            code = self.library.nvrtcCompileProgram(program, len(options), flags)
            log = self.text(program, "ProgramLog").rstrip(b"\0\n").decode(errors="replace")
            if code == 0:
                image = self.text(program, "PTX").rstrip(b"\0") if ptx else self.text(program, "CUBIN")
                output.write_bytes(image)
            return {"ok": code == 0, "log": log}
        finally:
            self.call("nvrtcDestroyProgram", ctypes.byref(program))


def main():
    nvrtc = Nvrtc(pathlib.Path(sys.argv[1]))
    print(json.dumps({"version": nvrtc.version()}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        source, output = pathlib.Path(job["source"]), pathlib.Path(job["output"])
        print(json.dumps(nvrtc.compile(source, job["options"], job["ptx"], output)), flush=True)


if __name__ == "__main__":
    main()
