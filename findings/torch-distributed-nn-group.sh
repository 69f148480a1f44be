#!/bin/bash
# torch.distributed: a group that is made before torch.distributed.nn is imported outlives its
# destroy_process_group(). That module writes the default group into the signatures of its functions
# as it is imported, and DistributedDataParallel imports it (by torch._dynamo): mostly later than
# init_process_group(). Gloo's threads then run until the interpreter ends (which has been seen to
# abort processes whose work was done), and after a second init_process_group() the functions of
# torch.distributed.nn go on in the first, destroyed group. Imported first, all is as it should be.
#
# Expected: destroy_process_group() ends the group and its threads; a default group is looked up when
# a function is called, as torch.distributed's own functions do. Exits 0 while it is as described.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy 2>/dev/null
cat > "$folder/ask.py" <<'PYTHON'
import gc
import inspect
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist


def begin():
    """A group of this one process."""
    file = Path(tempfile.mkdtemp()) / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)


def threads():
    names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


if sys.argv[1] == "first":
    import torch.distributed.nn
begin()
network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
network(torch.ones(1, 2)).sum().backward()
at_work = threads()
del network
gc.collect()
dist.destroy_process_group()
gc.collect()
left = threads()
begin()
import torch.distributed.nn

default = inspect.signature(torch.distributed.nn.functional.all_reduce).parameters["group"].default
which = "looked up" if default is None else "another"
if default is dist.group.WORLD:
    which = "the group"
dist.destroy_process_group()
print(f"at work {at_work}, after destroy_process_group {left}, default in a second group: {which}")
PYTHON
"$folder/venv/bin/python" -c 'import torch; print("torch", torch.__version__)'
first=$("$folder/venv/bin/python" -W ignore "$folder/ask.py" first 2>/dev/null)
later=$("$folder/venv/bin/python" -W ignore "$folder/ask.py" later 2>/dev/null)
echo "Threads of gloo, and the default group of torch.distributed.nn.functional.all_reduce:"
echo "imported before the group: $first"
echo "imported by the wrapper:   $later"
[[ $first =~ ^at\ work\ [1-9][0-9]*,\ after\ destroy_process_group\ 0,.*:\ looked\ up$ ]]
[[ $later =~ ^at\ work\ [1-9][0-9]*,\ after\ destroy_process_group\ [1-9][0-9]*,.*:\ another$ ]]
