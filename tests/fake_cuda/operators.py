#!/usr/bin/env python3
"""Writes operators.inc from the native_functions.yaml that comes with torch's wheel: operators.py YAML INC

NO_CHECK  operators whose CUDA wrapper makes no device check (TensorIterator and the like: 0-dim CPU tensors may mix in);
          every other wrapper wants all tensors on one device, 0-dim ones too.
KERNEL    operators for which libtorch_cuda brings a kernel of its own although a composite exists in libtorch_cpu:
          without registration the composite would be taken, and counted as many launches instead of one.
CPU_ONLY  operators that have a kernel for CPUs and none for CUDA.
"""
import re
import sys

# fake_cuda.cpp has kernels for these itself.
OWN = {"_fused_rms_norm"}


def functions(path):
    """Name, keys of `dispatch` and other entries of each function; the file is regular enough to read line by line."""
    found = []
    for line in open(path, encoding="utf-8"):
        line = line.split(" #")[0].rstrip()
        if match := re.match(r"- func: ([\w.]+)\(", line):
            found.append((match[1], set(), {}))
        elif match := re.match(r"    ([\w, ]+):", line):
            found[-1][1].update(key.strip() for key in match[1].split(","))
        elif match := re.match(r"  (\w+): *(.*)", line):
            found[-1][2][match[1]] = match[2]
    return found


no_check, kernels, cpu_only = [], [], []
for name, keys, entries in functions(sys.argv[1]):
    if entries.get("device_check") == "NoCheck":
        no_check.append(name)
    composite = any(key.startswith("Composite") for key in keys)
    # A structured operator has a kernel on CUDA whether its entry says so or not.
    if composite and ("CUDA" in keys or "structured_delegate" in entries) and name not in OWN:
        kernels.append(name)
    if "CPU" in keys and not {"CUDA", "QuantizedCUDA"} & keys and not composite and "structured_delegate" not in entries:
        cpu_only.append(name)
kernels.append("convolution")  # cuDNN: one call forwards
with open(sys.argv[2], "w", encoding="utf-8") as out:
    for kind, names in (("NO_CHECK", no_check), ("KERNEL", kernels), ("CPU_ONLY", cpu_only)):
        for name in names:
            out.write(f'{kind}("{name}")\n')
