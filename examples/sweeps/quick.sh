# Read by the sweeps. `--quick` first: settings with which a sweep only shows that it runs, in a minute, with a small random
# network on whatever data there is; no figures. Sets quick, train and score, lists of settings without spaces.
quick= train= score=
if [ "${1-}" = --quick ]; then
  quick=yes
  shift
  train="model.backbone.args.weights=null model.backbone.args.embed_dim=24 model.backbone.args.num_heads=2"
  train="$train model.decoder.args.dim=8 model.decoder.args.width=8 model.decoder.args.projections=[8,8,8,8]"
  train="$train objective.args.cues=[features,flow:dis] objective.args.sampling.size=112 objective.args.sampling.map_size=28"
  train="$train steps=1 batch_size=1 workers=0 save.every=0 mixed_precision=no"
  score="image.short_side=56"
fi
