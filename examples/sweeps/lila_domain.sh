#!/bin/sh
# LILA, figure 6b: features of images from other domains (chest X-rays, aerial images), of the model and of its backbone alone.
#   sh examples/sweeps/lila_domain.sh [--quick] MODEL BACKBONE IMAGES OUT
# IMAGES: a folder. PCA pictures in OUT/lila and OUT/frozen. The figure's own images are not named.
. "$(dirname "$0")/quick.sh"
set -eu
model=$1 backbone=$2 images=$3 out=$4
dense-ctx features "$model" "$images"/* --out "$out/lila" ${quick:+--scale 0.25}
dense-ctx features "$backbone" "$images"/* --out "$out/frozen" ${quick:+--scale 0.25}
