#!/bin/sh
# LILA, figure 7: models trained with windows up to 1, 3, 5, 10, 15, 20 frames, J&F by local k-NN on DAVIS-2017.
#   sh examples/sweeps/lila_gap.sh YOUTUBE_VOS DAVIS [CONFIG] [KEY=VALUE ...]
# CONFIG: a preset or a YAML file (lila-s14, which the paper sweeps). Done steps and results are kept: run it again after an interruption.
set -eu
videos=$1 davis=$2
shift 2
config=lila-s14
case "${1-}" in "" | *=*) ;; *) config=$1; shift ;; esac
for gap in ${GAPS:-1 3 5 10 15 20}; do
  out=runs/gap-$gap
  dense-ctx train "$config" data.root="$videos" objective.args.sampling.gap="[1, $gap]" out="$out" "$@"
  dense-ctx evaluate "$out/model" --protocol "${PROTOCOL:-davis2017-knn-v2}" --data "$davis" --out "$out/davis"
done
