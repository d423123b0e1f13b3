#!/bin/sh
# A base network, what LILA and DIP made of it, and the same three under MAXA's heads, in one table.
#
#   sh examples/bench_composed.sh DIP_MODEL CAMVID KITCHEN OUT [options of dense-ctx bench]
#
# DIP_MODEL: the model folder of `dense-ctx train dip-lite0` (runs/dip-lite0/model).
# CAMVID: CamVid's folder. KITCHEN: an RGB-D scene as `rgbd-folder` reads it (`dense-ctx datasets rgbd-folder`).
set -e
dip=$1 camvid=$2 kitchen=$3 out=$4
shift 4
dense-ctx bench --backbones efficientnet-lite0 model:lila-lite0 "model:$dip" --heads maxa cnn linear \
  --tasks "maxa-semantic(name=camvid, root=$camvid)" "maxa-depth(name=rgbd-folder, root=$kitchen)" \
  --out "$out" "$@"
