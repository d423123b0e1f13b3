"""The papers' settings, read out of the papers and their code apart from the presets: path | value | where it says so.

Sections are those of the papers ("LILA 4": arXiv 2604.26488, "DIP": 2506.18463, "MAXA": the adapters' paper); FlowFeat,
DIP's code and DiffCut's are the authors' published ones. "open": none of them says, and the value is this library's, so
that a change of it is noticed too. A value per preset stands in braces. Left out: what decides no number.
"""

LILA = """
model.backbone.name | {s14: dinov2-s14, b14: dinov2-b14, l14: dinov2-l14, l14-kinetics: dinov2-l14, mae-b16: mae-b16, \
dinov2-reg-b14: dinov2-reg-b14, dinov3-b16: dinov3-b16} | LILA 4, tables 1 and 6
model.backbone.args.weights | pretrained | LILA 3, frozen pretrained encoder
model.backbone.args.resize | false | LILA 3
model.backbone.args.adapters | null | LILA 3: none
model.backbone.args.dtype | null | FlowFeat, float32
model.backbone.args.layers | {default: [2, 5, 8, 11], l14: [5, 11, 17, 23], l14-kinetics: [5, 11, 17, 23]} | FlowFeat, \
hooks of 12 and 24 blocks
model.backbone.args.norm | false | FlowFeat, hooks before the final norm
model.decoder.name | dpt | LILA 4, implementation details
model.decoder.args.dim | {s14: 128, l14: 256, l14-kinetics: 256, default: 192} | LILA 4, implementation details
model.decoder.args.width | {s14: 128, l14: 256, l14-kinetics: 256, default: 192} | FlowFeat, DPT width is the output's
model.decoder.args.projections | {s14: [384, 384, 384, 384], l14: [1024, 1024, 1024, 1024], \
l14-kinetics: [1024, 1024, 1024, 1024], default: [768, 768, 768, 768]} | FlowFeat, the encoder's width
model.decoder.args.norm | true | FlowFeat, LayerNorm at the end
model.decoder.args.shortcut | false | FlowFeat
objective.name | lila | LILA 3
objective.args.cues | [features, "depth:depth-anything-v2-small(weights=default, side=518, config=null)", \
"flow:sea-raft-m(weights=spring)"] | LILA 3, eq. 1; FlowFeat, SEA-RAFT spring-M
objective.args.mode | in-context | LILA 3
objective.args.context | shared | LILA 3, figure 2
objective.args.ema | null | LILA 3, figure 2
objective.args.features.layers | [-1] | LILA 3
objective.args.features.norm | true | FlowFeat, the encoder feature is normed
objective.args.features.project | 0 | LILA eq. 1
objective.args.features.pamr | true | LILA 3
objective.args.features.pyramid | [4, 2, 1] | LILA B, PAMR
objective.args.features.iterations | [20, 10, 5] | LILA B, PAMR
objective.args.features.dilations | [1, 3, 5] | LILA B, PAMR
objective.args.regression.penalty | 0.1 | FlowFeat, on the Gram matrix divided by N
objective.args.regression.relative | false | LILA eq. 2
objective.args.regression.bias | none | LILA eq. 2
objective.args.regression.mean | true | FlowFeat
objective.args.regression.stride | 7 | LILA B
objective.args.regression.products | float32 | FlowFeat: float32
objective.args.loss.fit | l1 | LILA eq. 3
objective.args.loss.beta | null | LILA eq. 3
objective.args.loss.weight | 1.0 | LILA eq. 6
objective.args.loss.edges | l1 | LILA eq. 4
objective.args.sigma | 0.1 | FlowFeat
objective.args.gamma | 1.0 | LILA 4, implementation details
objective.args.balance | channels | LILA eq. 3
objective.args.start | 0 | LILA 3
objective.args.centre | 0 | LILA 3
objective.args.refine | 0.0 | LILA 3, cues as they are
objective.args.anchor | 0.0 | LILA eq. 6
objective.args.sampling.gap | [1, 5] | LILA 3, figure 7; its size is open
objective.args.sampling.items | {l14-kinetics: clips, default: frames} | open
objective.args.sampling.crop | [0.5, 0.75] | FlowFeat
objective.args.sampling.size | 224 | FlowFeat
objective.args.sampling.map_size | 224 | LILA 3
objective.args.sampling.frame_side | 448 | FlowFeat, Resize 448
objective.args.sampling.cue_side | 448 | LILA 3, cues of whole frames
objective.args.sampling.same_frame | false | LILA 3
objective.args.sampling.synthetic | 0.0 | LILA 4, real videos
objective.args.sampling.flow_check | false | LILA eq. 3
data.layout | {l14-kinetics: kinetics700, default: youtube-vos} | LILA 4, training datasets
data.split | {l14-kinetics: [train, val, test], default: [train, valid]} | LILA 4, training datasets: 3,978
data.frames | {l14-kinetics: ABSENT, default: all} | FlowFeat, train_all_frames
optimizer.name | adamw | LILA 4, implementation details
optimizer.lr | 1e-4 | LILA 4, implementation details
optimizer.weight_decay | 1e-5 | LILA 4, implementation details
optimizer.betas | [0.9, 0.999] | FlowFeat, config/ytvos.yaml
optimizer.eps | 1e-8 | open, torch's
schedule.name | constant | FlowFeat, one rate throughout
schedule.warmup | 0 | FlowFeat
schedule.floor | 0.0 | open
average.start | 0 | LILA 3
average.momentum | 0.0 | LILA 3
steps | 30000 | LILA B
epochs | null | LILA B
batch_size | 32 | LILA B
clip_norm | null | FlowFeat, no clipping
mixed_precision | no | FlowFeat, float32 without autocast
seed | 0 | open
"""

DIP = """
model.backbone.name | {s14: dinov2-reg-s14, b14: dinov2-reg-b14, l14: dinov2-reg-l14, clip-b16: clip-b16, \
mae-b16: mae-b16} | DIP 4.1, tables 4 and 9
model.backbone.args.weights | pretrained | DIP 3
model.backbone.args.resize | false | DIP's code
model.backbone.args.adapters | null | DIP 3: none
model.backbone.args.dtype | null | DIP's code, float32
model.backbone.args.layers | {l14: [23], default: [11]} | DIP 3.1, the last block's patches
model.backbone.args.norm | true | DIP's code
model.decoder.name | upsample | DIP 3.1, no decoder
model.decoder.args.layers | [0] | DIP 3.1
model.decoder.args.normalize | true | DIP 3.1, cosine similarity
objective.name | dip | DIP 3.1
objective.args.loss | official | DIP's code, CrossEntropyLoss of the probabilities
objective.args.distractors | 7 | DIP A
objective.args.official_distractors | true | DIP's code
objective.args.temperature | 0.07 | DIP A, table 7
objective.args.classes | 1000 | DIP 4.1
objective.args.hidden | 7 | DIP's code
objective.args.out | 6144 | DIP A
objective.args.projector_lr | null | DIP's code
objective.args.train | blocks | DIP A
objective.args.blocks | 3 | DIP A
objective.args.size | 224 | DIP's code
objective.args.scale | null | DIP's code, nothing random
objective.args.resize | 256 | DIP's code, Resize 256 and CenterCrop 224
objective.args.positives | pairs | DIP 3.2
objective.args.direct | false | DIP 3.1
optimizer.name | adamw | DIP A
optimizer.lr | 2.25e-7 | DIP's code, 1.5e-7 x 384 / 256
optimizer.weight_decay | 0.05 | DIP's code
optimizer.betas | [0.9, 0.95] | DIP's code
optimizer.eps | 1e-8 | DIP's code, torch's
schedule.name | cosine | DIP A
schedule.warmup | 0 | DIP's code
schedule.floor | 0.0 | DIP's code
average.start | 0 | DIP's code
average.momentum | 0.0 | DIP's code
steps | null | DIP 4.1
epochs | 5 | DIP 4.1
batch_size | 384 | DIP's code, 4 images, 96 times accumulated
accumulate | 96 | DIP's code
clip_norm | null | DIP's code
mixed_precision | fp16 | DIP's code, autocast and GradScaler (--amp 1)
seed | 0 | DIP's code
"""

DIP_TASKS = """
model.backbone.name | {s14: dinov2-reg-s14, b14: dinov2-reg-b14, l14: dinov2-reg-l14} | DIP 4.1, the base model
model.backbone.args.weights | pretrained | DIP 3.2
model.backbone.args.resize | false | open
model.backbone.args.adapters | null | DIP 3: none
model.backbone.args.dtype | null | open, float32
model.backbone.args.layers | {l14: [23], default: [11]} | open, the last block
model.backbone.args.norm | true | open
model.decoder.name | upsample | DIP 3.2
model.decoder.args.layers | [0] | DIP 3.2
model.decoder.args.normalize | true | open
segmenter.name | diffcut | DIP 3.2
segmenter.args.model | segmind/SSD-1B | DIP 3.2
segmenter.args.timestep | 50 | DiffCut, --step
segmenter.args.side | 1024 | DiffCut, --img_size
segmenter.args.tau | 0.5 | DiffCut, --tau
segmenter.args.alpha | 10.0 | DiffCut, --alpha
segmenter.args.official_quirk | true | DiffCut, get_affinity_matrix
segmenter.args.seed | 0 | open
segmenter.args.unet | null | DiffCut, the pipeline's
segmenter.args.vae | null | DiffCut, the pipeline's
segmenter.args.prompt | null | DiffCut, the empty prompt
side | 448 | open
classes | 1000 | DIP 4.1
subset | 200000 | DIP 3.2, footnote
iterations | 20 | open
seed | 0 | open
kmeans | auto | open
neighbours | 5 | DIP 3.2
shared | 0.05 | open, lost from our copy of DIP 3.2
"""

HEAD = "maxa(width=32, heads=8, depth=2, sigma=head, cnn_width=null, layers=null, density=1)"
MAXA = """
size | [224, 224] | MAXA 4, experiment design
image_size | null | MAXA 4, native resolution
seeds | [0] | open
steps | 20000 | open
batch_size | 16 | open
held_out | 0.1 | MAXA A.1; its share is open
select | loss | MAXA A.1, validation loss
schedule | constant | open
optimizer.name | adamw | MAXA A.1, Adam
optimizer.lr | null | MAXA A.1
optimizer.weight_decay | 0.0 | MAXA A.1
optimizer.betas | [0.9, 0.999] | open, torch's
optimizer.eps | 1e-8 | open, torch's
clip_norm | null | MAXA names none
mixed_precision | no | open
"""

# of each benchmark: its tasks, with the rate of MAXA A.1: 1e-3, and 2e-3 for boundaries and depth
MAXA_TASKS = {
    "instances": """
objective | maxa | MAXA 4.1
data | {name: coco-instances} | MAXA 4.1
train | train | MAXA 4.1
val | val | MAXA 4.1
steps | 20000 | open
lr | 1e-3 | MAXA A.1
args | {task: "instances(least=3, large=0.03, seed=0)", flip: false, cache: null, targets: null, pixels: 256} | \
MAXA 4.1, three large objects
head | {dim: 32} | MAXA 4.1, 32 dimensions
images | 8000 | MAXA 4.1
""",
    "boundaries": """
objective | maxa-boundaries | MAXA 4.1
data | {name: coco-instances} | MAXA 4.1
train | train | MAXA 4.1
val | val | MAXA 4.1
steps | 20000 | open
lr | 2e-3 | MAXA A.1
args | {flip: false, cache: null, targets: null, pixels: null} | open
head | {} | MAXA 3
images | null | MAXA 4.1
""",
    "distance": """
objective | maxa-distance | MAXA 4.1
data | {name: coco-instances} | MAXA 4.1
train | train | MAXA 4.1
val | val | MAXA 4.1
steps | 20000 | open
lr | 1e-3 | MAXA A.1
args | {flip: false, cache: null, targets: null, pixels: null} | open
head | {} | MAXA 3
images | null | MAXA 4.1
""",
    "voc": """
objective | maxa-semantic | MAXA 4.1
data | {name: voc2012, instances: false} | MAXA 4.1
train | train | MAXA 4.1, 1,464 images
val | val | MAXA 4.1
steps | 5000 | open
lr | 1e-3 | MAXA A.1
args | {flip: false, cache: null, targets: null, pixels: null} | open
head | {} | MAXA 3
images | null | MAXA 4.1
""",
    "coco": """
objective | maxa | MAXA 4.1
data | {name: coco-stuff171, names_file: null} | MAXA 4.1
train | train | MAXA 4.1
val | val | MAXA 4.1
steps | 40000 | open
lr | 1e-3 | MAXA A.1
args | {task: "semantic(outputs=201)", flip: false, cache: null, targets: null, pixels: null} | MAXA table 3, its counts
head | {cnn_width: 64} | MAXA 4.1
images | 100000 | MAXA 4.1
""",
    "depth": """
objective | maxa-depth | MAXA 4.1
data | {name: nyuv2, target: depth, raw: false, signs: "---"} | MAXA 4.1
train | train | MAXA 4.1
val | test | MAXA 4.1
steps | 5000 | open
lr | 2e-3 | MAXA A.1
args | {flip: false, cache: null, targets: null, pixels: null} | open
head | {} | MAXA 3
images | null | MAXA 4.1
""",
}
# backbone, its map, and what else is not "pretrained, no prefix, not resized, normed": MAXA table 1, sizes of table 2
MAXA_BACKBONES = """
Random (untrained) | vit-b16 | [11] | {weights: null}
ImageNet | timm:vit_base_patch16_224.augreg_in21k | [11] | {}
SAM V2 B+ | sam2-base-plus-neck | null | {repo: facebook/sam2.1-hiera-base-plus, config: null}
MoCo V3 | mocov3-b16 | [11] | {}
Dino | dino-b8 | [11] | {}
Dino V2 | dinov2-b14 | [11] | {}
Dino V2 (ViT-L) | dinov2-l14 | [23] | {}
MAE | mae-b16 | [11] | {}
Hiera B+ | hiera-base-plus | [3] | {}
CLIP | clip-b16 | [11] | {}
CLIP (ViT-L) | timm:vit_large_patch14_clip_quickgelu_336.openai | [23] | {}
MetaCLIP | timm:vit_base_patch16_clip_quickgelu_224.metaclip_400m | [11] | {}
SigLIP-224 | siglip-b16-224 | [11] | {}
SigLIP-384 | siglip-b16-384 | [11] | {}
SigLIP-512 | siglip-b16-512 | [11] | {}
SigLIP-SO | siglip-so400m | [26] | {img_size: 504}
Aim2 | timm:aimv2_large_patch14_336.apple_pt | [23] | {}
ViTamin | timm:vitamin_large2_384.datacomp1b_clip | [-1] | {}
ConvNeXt | timm:convnext_large_mlp.clip_laion2b_ft_320 | [3] | {}
ConvNeXt (2 layers) | timm:convnext_large_mlp.clip_laion2b_ft_320 | [2, 3] | {}
Phi-3.5V | timm:vit_large_patch14_clip_quickgelu_336.openai | [23] | {weights: phi-3.5-vision.safetensors, \
prefix: model.vision_embed_tokens.img_processor.}
"""
# table 5 reads four maps of each, and lets its heads choose
MAXA_TABLE5 = """
MAE ViT-B | mae-b16 | [2, 5, 8, 11] | {}
DINO | dino-b8 | [2, 5, 8, 11] | {}
DINOv2 | dinov2-b14 | [2, 5, 8, 11] | {}
"""
MAXA_HEADS = {
    "maxa-table2": [HEAD],
    "maxa-table3": [HEAD],
    "maxa-table4": [  # base, D = 16, no sigma, no individual sigma, a single layer
        HEAD, HEAD.replace("width=32", "width=16"), HEAD.replace("sigma=head", "sigma=none"),
        HEAD.replace("sigma=head", "sigma=shared"), HEAD.replace("depth=2", "depth=1"),
    ],
    "maxa-table5": [  # linear on one and on four layers, DPT, MAXA
        "linear(layers=[-1])", "linear(layers=[0, 1, 2, 3])",
        "dpt(width=256, projections=null, norm=false, shortcut=false)", HEAD.replace("layers=null", "layers=[-1]"),
    ],
}  # fmt: skip
MAXA_COLUMNS = {
    "maxa-table2": ["instances", "boundaries", "distance"],
    "maxa-table3": ["voc", "coco", "depth"],
    "maxa-table4": ["instances", "voc", "depth"],
    "maxa-table5": ["depth"],
}
