"""``fusematte doctor``: checks which parts of FuseMatte work here, and why others do not."""

from __future__ import annotations

import os
import platform
import sys
from importlib.util import find_spec
from typing import get_args

import av
import cv2
import numpy as np
from av.codec.hwaccel import hwdevices_available

from fusematte.cpp_ext import instruction_sets
from fusematte.cpp_ext.cuda import fatbin, why_no_kernels
from fusematte.engine.backends import BACKENDS, Spec, Work, candidates, create_backend
from fusematte.engine.backends.cache import default_folder
from fusematte.engine.backends.tensorrt.backend import TensorRtBackend
from fusematte.engine.backends.tensorrt.library import MODULES, REMEDIES, installed, load_library
from fusematte.engine.backends.tuning import recall, tuning_key
from fusematte.engine.cuda.probe import count_gpus, describe_gpus, why_no_gpu
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.models import load_bundle, shipped_models
from fusematte.engine.urgency import URGENT, may_be_urgent

ENCODERS = (
    "libx264",
    "libx265",
    "libvpx-vp9",
    "libsvtav1",
    "prores_ks",
    "ffv1",
    "h264_nvenc",
    "hevc_nvenc",
)


def report() -> tuple[list[str], bool]:
    """The report in lines, and whether any backend works."""
    backends, usable = _backends()
    lines = [
        *_machine(),
        f"kernels     ok, compiled for {', '.join(instruction_sets())} (the last one is in use)",
        f"kernels     {_cuda_kernels()}",
        *_models(),
        *backends,
        *_tuning(),
        *_encoders(),
        *_gpu(),
    ]
    return lines, usable


def _machine() -> list[str]:
    return [
        f"python      {platform.python_version()} ({sys.executable})",
        f"system      {platform.platform()}, {os.cpu_count()} CPUs",
        f"libraries   av {av.__version__}, opencv {cv2.__version__}, numpy {np.__version__}",
        f"live        {_urgency()}",
    ]


def _urgency() -> str:
    if may_be_urgent():
        return "frames come before other programs"
    if sys.platform != "linux":
        return "frames wait for a processor like other programs"
    return (
        f"frames wait for a processor like other programs; with ulimit -e {20 + URGENT}, as root "
        "or with CAP_SYS_NICE they would come first"
    )


def _cuda_kernels() -> str:
    """Whether the CUDA kernels are built, and how to build them."""
    path = fatbin()
    if path is None:
        return f"CUDA: {why_no_kernels()}; the CPU kernels are used"
    return f"CUDA: built, {path.name}, {path.stat().st_size / 1e6:.1f} MB"


def _models() -> list[str]:
    lines = []
    for name in shipped_models():
        try:
            bundle = load_bundle(name)
            lines.append(f"model       {name}: ok, version {bundle.version}")
        except FuseMatteError as error:
            lines.append(f"model       {name}: NOT usable: {error}")
    return lines or ["model       none is shipped with this installation"]


def _backends() -> tuple[list[str], bool]:
    lines, usable = [], False
    for name, kind in BACKENDS.items():
        # A tunable backend is listed with each of its devices.
        for spec in [Spec(name, device) for device in kind.devices if kind.tunable] or [Spec(name)]:
            try:
                said = _runs_on(spec)
            except FuseMatteError as error:
                lines.append(f"backend     {spec}: NOT usable: {error}")
            else:
                lines.append(f"backend     {spec}: ok, {said}")
                usable = True
    return lines, usable


def _runs_on(spec: Spec) -> str:
    """The device and its precisions; one of them is loaded, none is timed."""
    bundle, kind = load_bundle(), BACKENDS[spec.backend]
    found = [] if kind.unavailable() else candidates([kind], spec, bundle, thorough=True)
    backend = create_backend(found[0] if found else spec, bundle)
    backend.close()
    return f"{backend.device}, {' or '.join(s.precision or '' for s in found) or backend.precision}"


def _tuning() -> list[str]:
    """The fastest backend measured for each kind of work, and the cache folder."""
    lines = []
    for name in shipped_models():
        for work in get_args(Work):
            found = recall(tuning_key(load_bundle(name), Spec(), work=work))
            said = found or "not measured yet; the first use or fusematte tune does that"
            lines.append(f"tuning      {name}, {work}: {said}")
    folder = default_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    writable = there.is_dir() and os.access(there, os.W_OK)
    state = "ok" if writable else "NOT writable: set FUSEMATTE_CACHE to a writable folder"
    return [*lines, f"cache       {folder}: {state}"]


def _encoders() -> list[str]:
    lines = []
    for name in ENCODERS:
        known = name in av.codecs_available and av.codec.Codec(name, "w") is not None
        needs_gpu = name.endswith("_nvenc") and not count_gpus()
        state = "ok" if known else "NOT usable: not in this build of av"
        if known and needs_gpu:
            state = "NOT usable: needs an NVIDIA GPU and its driver"
        lines.append(f"encoder     {name}: {state}")
    return lines


def _gpu() -> list[str]:
    """The GPU, its driver and the components of the GPU path, with how to get missing ones."""
    gpus = describe_gpus()
    lines = [f"GPU         {gpu}" for gpu in gpus]
    if not gpus:
        lines = [f"GPU         none: {why_no_gpu()}; the network runs on the CPU"]
    for flavour in MODULES:
        lines.append(f"TensorRT    {flavour}: {_tensorrt(flavour)}")
    pycuda = "ok" if find_spec("pycuda") else "missing: pip install 'fusematte[tensorrt]'"
    lines.append(f"CUDA        pycuda: {pycuda}")
    decodes = "cuda" in hwdevices_available()
    state = "NOT usable: not in this build of av"
    if decodes:
        state = "in this build of av" if gpus else "NOT usable: needs an NVIDIA GPU and its driver"
    lines.append(f"decoder     NVDEC: {state}")
    return [*lines, f"GPU frames  {_frame_path()}"]


def _frame_path() -> str:
    """Whether frames can stay on the GPU from the decoder to the composite."""
    reason = TensorRtBackend.unavailable() or why_no_kernels()
    return f"NOT usable: {reason}" if reason else "ok: they stay on the GPU with --backend tensorrt"


def _tensorrt(flavour: str) -> str:
    if flavour not in installed():
        return f"missing: {REMEDIES[flavour]}"
    try:
        version = load_library(flavour).__version__
    except FuseMatteError as error:
        return f"NOT usable: {error}"
    return f"{version}, builds engines" + ("" if count_gpus() else "; running them needs a GPU")
