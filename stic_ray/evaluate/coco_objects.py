"""COCO's 80 objects, each with everyday words for it: what CHAIR reads by where no synonyms file is given.

Left out are words that more often mean something else ("chicken" is food, "baseball" a game, "vessel" a bowl too).
"""

from stic_ray.evaluate.objects import Vocabulary, make_vocabulary
from stic_ray.evaluate.rows import read_text

_SYNONYMS = {
    "person": "adult, athlete, baby, biker, boy, bride, brother, catcher, chef, child, climber, cowboy, crowd, "
    "customer, cyclist, dad, daughter, doctor, driver, farmer, father, female, firefighter, fireman, fisherman, "
    "friend, gentleman, girl, grandfather, grandmother, groom, guy, hiker, human, husband, infant, jockey, kid, "
    "lady, male, man, mom, mother, motorcyclist, musician, nurse, officer, passenger, pedestrian, people, player, "
    "policeman, policewoman, referee, rider, runner, sailor, shopper, singer, sister, skateboarder, skater, skier, "
    "snowboarder, soldier, son, spectator, student, surfer, swimmer, teacher, teenager, toddler, tourist, traveler, "
    "traveller, umpire, vendor, waiter, waitress, wife, woman, worker",
    "bicycle": "bike, tandem, tricycle, unicycle",
    "car": "automobile, cab, convertible, hatchback, jeep, limo, limousine, minivan, sedan, station wagon, suv, "
    "taxi, taxi cab, taxicab, van",
    "motorcycle": "dirt bike, moped, motor bike, motor cycle, motor scooter, motorbike, scooter",
    "airplane": "aeroplane, air plane, aircraft, airliner, biplane, jet, jet plane, jetliner, plane, seaplane",
    "bus": "minibus, omnibus, trolleybus",
    "train": "locomotive, monorail, streetcar, tram",
    "truck": "fire engine, fire truck, firetruck, lorry, pick up truck, pickup, pickup truck",
    "boat": "barge, canoe, catamaran, dinghy, ferry, ferryboat, gondola, houseboat, jet ski, kayak, lifeboat, "
    "motorboat, rowboat, sail boat, sailboat, ship, speedboat, steamboat, tugboat, yacht",
    "traffic light": "stop light, stoplight, traffic signal",
    "fire hydrant": "fireplug, hydrant",
    "stop sign": "stopsign",
    "parking meter": "",
    "bench": "park bench, pew",
    "bird": "cockatoo, crow, dove, duck, duckling, eagle, falcon, finch, flamingo, goose, gosling, gull, hawk, "
    "heron, hummingbird, magpie, ostrich, owl, parakeet, parrot, peacock, pelican, penguin, pigeon, puffin, raven, "
    "robin, rooster, seabird, seagull, songbird, sparrow, stork, swan, vulture, waterfowl, woodpecker",
    "cat": "feline, kitten, kitty, tabby",
    "dog": "beagle, bulldog, chihuahua, collie, corgi, dachshund, dalmatian, doggy, greyhound, hound, husky, "
    "labrador, pit bull, pitbull, poodle, pug, pup, puppy, retriever, sheepdog, spaniel, terrier",
    "horse": "colt, foal, mare, pony, racehorse, stallion",
    "sheep": "ewe, lamb",
    "cow": "bull, calf, cattle, heifer, ox",
    "elephant": "",
    "bear": "grizzly, grizzly bear, panda, panda bear",
    "zebra": "",
    "giraffe": "",
    "backpack": "back pack, knapsack, rucksack",
    "umbrella": "parasol",
    "handbag": "hand bag, pocketbook, purse, tote bag",
    "tie": "bow tie, bowtie, neck tie, necktie",
    "suitcase": "baggage, luggage, suit case",
    "frisbee": "flying disc, flying disk",
    "skis": "ski",
    "snowboard": "snow board",
    "sports ball": "ball, soccerball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "baseball mitt, catcher mitt",
    "skateboard": "longboard, skate board",
    "surfboard": "bodyboard, surf board",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "",
    "wine glass": "champagne flute, champagne glass, goblet, wineglass",
    "cup": "mug, teacup",
    "fork": "",
    "knife": "pocketknife",
    "spoon": "teaspoon",
    "bowl": "",
    "banana": "",
    "apple": "",
    "sandwich": "burger, cheeseburger, hamburger, panini",
    "orange": "clementine, mandarin, tangerine",
    "broccoli": "",
    "carrot": "baby carrot",
    "hot dog": "hotdog",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cheesecake, cupcake",
    "chair": "armchair, highchair, seat, stool",
    "couch": "love seat, loveseat, settee, sofa",
    "potted plant": "house plant, houseplant, pot plant",
    "bed": "",
    "dining table": "dinner table, table",
    "toilet": "commode, urinal",
    "tv": "computer monitor, computer screen, monitor, television, television screen, television set, tv screen, "
    "tv set",
    "laptop": "laptop computer, macbook, netbook, notebook computer",
    "mouse": "computer mouse",
    "remote": "remote control, remote controller, television remote, tv remote",
    "keyboard": "computer keyboard",
    "cell phone": "cellphone, iphone, mobile phone, phone, smart phone, smartphone, telephone",
    "microwave": "microwave oven",
    "oven": "stove, stove top, stovetop, toaster oven",
    "toaster": "",
    "sink": "wash basin, washbasin",
    "refrigerator": "freezer, fridge",
    "book": "cookbook, paperback, textbook",
    "clock": "",
    "vase": "",
    "scissors": "scissor, shears",
    "teddy bear": "stuffed bear, teddy, teddybear",
    "hair drier": "blow drier, blow dryer, hair dryer, hairdrier, hairdryer",
    "toothbrush": "tooth brush",
}


def coco_vocabulary() -> Vocabulary:
    """COCO's 80 objects under their official names."""
    return make_vocabulary([[name, *filter(None, synonyms.split(", "))] for name, synonyms in _SYNONYMS.items()])


def read_vocabulary(uri: str) -> Vocabulary:
    """A synonyms file in CHAIR's form: one object a line, its names separated by commas; COCO's 80 where there is none.

    Raises:
        ValueError: the file is missing or empty, a name is empty, or stands on the lines of two objects.
    """
    if not uri:
        return coco_vocabulary()
    lines = [line.split(",") if line.strip() else [] for line in read_text(uri).split("\n")]
    try:
        return make_vocabulary([[name.strip() for name in names] for names in lines])
    except ValueError as error:
        raise ValueError(f"{uri}, {error}") from None
