#!/bin/sh
# DIP, figure 5: retrieval on ADE20K with memories of several sizes.
#   sh examples/sweeps/dip_memory.sh MODEL ADE20K [OUT]
# Done results are kept: run it again after an interruption. The figure's own sizes are not in the text.
set -eu
model=$1 data=$2 out=${3-runs/memory}
for size in ${SIZES:-102400 1024000 10240000}; do
  dense-ctx evaluate "$model" --protocol "${PROTOCOL:-ade20k-dip-v1}" --data "$data" --out "$out/$size" probe.args.memory="$size"
done
