#!/bin/sh
# DIP, figure 5: retrieval on ADE20K with memories of several sizes.
#   sh examples/sweeps/dip_memory.sh [--quick] MODEL ADE20K OUT
# SIZES, PROTOCOL: others. The figure's own sizes are not in the text. Done results are kept: run it again after an interruption.
. "$(dirname "$0")/quick.sh"
set -eu
model=$1 data=$2 out=$3
if [ -n "$quick" ]; then
  SIZES="40 80" score="image.size=[32,32] probe.args.k=3"
fi
for size in ${SIZES:-102400 1024000 10240000}; do
  dense-ctx evaluate "$model" --protocol "${PROTOCOL:-ade20k-dip-v1}" --data "$data" --out "$out/memory-$size" \
    probe.args.memory="$size" $score
done
