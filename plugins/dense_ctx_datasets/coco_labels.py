"""The label hierarchy of COCO-Stuff (Caesar et al. 2018): 182 ids, 171 in use, 27 super-categories.

The pixel maps hold ids from 0 (the published list counts from 1). Eleven of COCO's thing ids were never annotated;
they are in the hierarchy, but not among the 171 classes.
"""

from __future__ import annotations

from .files import comma_separated

# super-category -> its labels; within each, in the order of the published ids
THINGS = {
    "electronic": "tv,laptop,mouse,remote,keyboard,cell phone",
    "appliance": "microwave,oven,toaster,sink,refrigerator,blender",
    "food": "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake",
    "furniture": "chair,couch,potted plant,bed,mirror,dining table,window,desk,toilet,door",
    "indoor": "book,clock,vase,scissors,teddy bear,hair drier,toothbrush,hair brush",
    "kitchen": "bottle,plate,wine glass,cup,fork,knife,spoon,bowl",
    "accessory": "hat,backpack,umbrella,shoe,eye glasses,handbag,tie,suitcase",
    "animal": "bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe",
    "outdoor": "traffic light,fire hydrant,street sign,stop sign,parking meter,bench",
    "person": "person",
    "sports": "frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket",
    "vehicle": "bicycle,car,motorcycle,airplane,bus,train,truck,boat",
}
STUFF = {
    "ceiling": "ceiling-other,ceiling-tile",
    "floor": "carpet,floor-marble,floor-other,floor-stone,floor-tile,floor-wood",
    "food": "food-other,fruit,salad,vegetable",
    "furniture": "cabinet,counter,cupboard,desk-stuff,door-stuff,furniture-other,light,mirror-stuff,shelf,stairs,table",
    "raw material": "cardboard,metal,paper,plastic",
    "textile": "banner,blanket,cloth,clothes,curtain,mat,napkin,pillow,rug,textile-other,towel",
    "wall": "wall-brick,wall-concrete,wall-other,wall-panel,wall-stone,wall-tile,wall-wood",
    "window": "window-blind,window-other",
    "building": "bridge,building-other,house,roof,skyscraper,tent",
    "ground": "dirt,gravel,ground-other,mud,pavement,platform,playingfield,railroad,road,sand,snow",
    "plant": "branch,bush,flower,grass,leaves,moss,plant-other,straw,tree",
    "sky": "clouds,sky-other",
    "solid": "hill,mountain,rock,solid-other,stone,wood",
    "structural": "cage,fence,net,railing,structural-other",
    "water": "fog,river,sea,water-other,waterdrops",
}

# things in the order of their ids: COCO's own order of super-categories
_THING_ORDER = comma_separated(
    "person,vehicle,outdoor,animal,accessory,sports,kitchen,food,furniture,electronic,appliance,indoor"
)
NEVER_ANNOTATED = frozenset(
    comma_separated("street sign,hat,shoe,eye glasses,plate,mirror,window,desk,door,blender,hair brush")
)

LABELS: tuple[str, ...] = (
    *(label for group in _THING_ORDER for label in THINGS[group].split(",")),
    *sorted(label for group in STUFF.values() for label in group.split(",")),  # stuff ids are alphabetical
)

FINE: tuple[str, ...] = tuple(label for label in LABELS if label not in NEVER_ANNOTATED)
COARSE: tuple[str, ...] = (*THINGS, *(f"{name} (stuff)" if name in THINGS else name for name in STUFF))

_GROUP = {
    label: index for index, labels in enumerate((*THINGS.values(), *STUFF.values())) for label in labels.split(",")
}
# value of the pixel map -> class, -1 for ids never annotated
TO_FINE: tuple[int, ...] = tuple(FINE.index(label) if label in FINE else -1 for label in LABELS)
TO_COARSE: tuple[int, ...] = tuple(_GROUP[label] if label in FINE else -1 for label in LABELS)
