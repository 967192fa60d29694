#!/usr/bin/env python3
"""Compares what the audit reads out of libraries with what cuobjdump lists.

    python crates/audit/compare.py --halfbyte target/release/halfbyte --cuobjdump OLD --cuobjdump NEW FILE.so...

cuobjdump is on PyPI: `nvidia-cuda-cuobjdump` has 13.x, and triton's wheels carry an older one under
`triton/backends/nvidia/bin`. Give both: the new one stops early at some files of CUDA 12.1, the old one knows neither zstd nor
the flags of later architectures. A file agrees if one of them lists it to its end, with as many pieces for each target.
Exit code 1 if a file agrees with none.
"""

import argparse
import collections
import json
import re
import subprocess
import sys
import time


def listed(tool, option, file):
    """Target -> pieces, or None where the tool gives up; and seconds."""
    start = time.perf_counter()
    run = subprocess.run([tool, *option, file], capture_output=True, text=True, errors="replace")
    seconds = time.perf_counter() - start
    said = run.stdout + run.stderr
    if run.returncode != 0 and "does not contain device code" not in said and "No PTX" not in said:
        return None, seconds
    names = re.findall(r"^(?:ELF|PTX) file\s+\d+:\s+(\S+)", run.stdout, re.M)
    targets = (re.search(r"\.(?:sm_|compute_)?(?:sm_)(\d+[af]?)\.", name) for name in names)
    return collections.Counter(target.group(1) for target in targets if target), seconds


def ours(halfbyte, file):
    """(machine code, PTX): target -> pieces; and seconds."""
    start = time.perf_counter()
    run = subprocess.run([halfbyte, "audit", file, "--json"], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    found = {"cubin": collections.Counter(), "ptx": collections.Counter()}
    for library in json.loads(run.stdout)["libraries"]:
        for code in library.get("device_code", []):
            found[code["kind"]][code["target"].split("_")[1]] += code["entries"]
    return (found["cubin"], found["ptx"]), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--halfbyte", required=True)
    parser.add_argument("--cuobjdump", action="append", required=True)
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    failed = 0
    for file in args.files:
        found, seconds = ours(args.halfbyte, file)
        agreed, lines = False, []
        for tool in args.cuobjdump:
            elf, elf_s = listed(tool, ["--list-elf", "-all"], file)
            ptx, ptx_s = listed(tool, ["--list-ptx", "-all"], file)
            if ptx is None:
                ptx, ptx_s = listed(tool, ["--list-ptx"], file)
            # Suffixes are in the names of later versions only.
            same = (elf, ptx) == found
            agreed |= same
            ratio = (elf_s + ptx_s) / seconds
            lines.append(f"  {tool}: {'same' if same else 'differs'}, {elf_s + ptx_s:.2f} s, {ratio:.0f}x")
            if not same:
                lines.append(f"    lists {elf} {ptx}")
        print(f"{'same' if agreed else 'DIFFERS'} {file}: {seconds:.3f} s {dict(found[0])} {dict(found[1])}")
        print("\n".join(lines), flush=True)
        failed += not agreed
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
