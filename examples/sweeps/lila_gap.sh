#!/bin/sh
# LILA, figure 7: models trained with windows up to 1, 3, 5, 10, 15, 20 frames, J&F by local k-NN on DAVIS-2017.
#   sh examples/sweeps/lila_gap.sh [--quick] YOUTUBE_VOS DAVIS OUT [KEY=VALUE ...]
# CONFIG: another preset or YAML file than lila-s14, which the paper sweeps; GAPS, PROTOCOL likewise; KEY=VALUE goes to the
# training. Done steps and results are kept: run it again after an interruption.
. "$(dirname "$0")/quick.sh"
set -eu
videos=$1 davis=$2 out=$3
shift 3
[ -z "$quick" ] || GAPS="1 3"
for gap in ${GAPS:-1 3 5 10 15 20}; do
  dense-ctx train "${CONFIG:-lila-s14}" data.root="$videos" objective.args.sampling.gap="[1, $gap]" \
    out="$out/gap-$gap" $train "$@"
  dense-ctx evaluate "$out/gap-$gap/model" --protocol "${PROTOCOL:-davis2017-knn-v2}" --data "$davis" \
    --out "$out/results/gap-$gap" ${quick:+--limit 1} $score
done
dense-ctx compare "$out"/results/*
