#!/bin/sh
# LILA, table 6: MAE, DINOv2 with registers and DINOv3, trained by the official presets, J&F by a linear probe on DAVIS-2017.
#   sh examples/sweeps/lila_table6.sh [--quick] YOUTUBE_VOS DAVIS OUT [KEY=VALUE ...]
# BACKBONES: some of them. KEY=VALUE goes to the training. Done steps and results are kept: run it again after an interruption.
. "$(dirname "$0")/quick.sh"
set -eu
videos=$1 davis=$2 out=$3
shift 3
for backbone in ${BACKBONES:-mae-b16 dinov2-reg-b14 dinov3-b16}; do
  dense-ctx train "lila-$backbone" data.root="$videos" out="$out/$backbone" $train "$@"
  frozen="$backbone${quick:+(weights=null,embed_dim=24,num_heads=2)}+upsample"
  dense-ctx evaluate "$out/$backbone/model" --protocol davis2017-linear-v2 --data "$davis" \
    --out "$out/results/$backbone-lila" ${quick:+--limit 1} $score
  dense-ctx evaluate "$frozen" --protocol davis2017-linear-v2 --data "$davis" \
    --out "$out/results/$backbone" ${quick:+--limit 1} $score
done
if [ -n "$quick" ]; then # of one clip: beside no paper
  dense-ctx compare "$out"/results/*
else
  dense-ctx compare "$out"/results/* --paper lila:table6
fi
