#!/usr/bin/env bash
# The main job on CamVid, for docs/results/main_job.md: a first model on 5 % of the training pixels in
# random 128-pixel regions; 5 % more by each strategy; retrain; evaluate on the test split. Random is
# drawn twice: how far the two lie apart is the noise.
#
#   tools/main_job_camvid.sh CAMVID ENCODER_WEIGHTS OUT [SEED] [EXTRA TRAIN OVERRIDES...]
#
# Every step is a segal command; a step that is done is not done again, so the script may be killed.
set -euo pipefail
camvid=$1 weights=$2 out=$3 seed=${4:-0}
extra=("${@:5}")
images=$camvid/images/train

fit() { # NAME SELECTION...: trains from ImageNet weights on what is labelled
    local name=$1 labelled=()
    shift
    for file in "$@"; do labelled+=(--labelled "$file"); done
    segal train --config configs/camvid_train.yaml --data "$camvid" --encoder-weights "$weights" \
        --seed "$seed" "${labelled[@]}" --out "$out/model-$name" "${extra[@]}"
}

first=$out/seed-set/selection.csv
segal select --images "$images" --region 128 --budget 5% --strategy random --seed "$seed" \
    --out "$out/seed-set"
fit first "$first"
for arm in random-128:1000 entropy-128:1000 coreset-128:1000 uwe-128:1000 uwe-512:1000 \
    random-128:2000; do
    name=${arm%:*} draw=${arm#*:}
    strategy=${name%-*} region=${name#*-}
    if [ "$draw" = 2000 ]; then name=$name-again; fi
    segal select --images "$images" --checkpoint "$out/model-first/model.safetensors" \
        --region "$region" --budget 5% --strategy "$strategy" --labelled "$first" \
        --seed "$((seed + draw))" --out "$out/select-$name"
    fit "$name" "$first" "$out/select-$name/selection.csv"
done
