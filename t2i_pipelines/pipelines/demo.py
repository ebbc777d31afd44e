"""What ``t2i demo`` inserts and asks."""

SOURCE = "data"
URI = "demo/milvus.db"
PAGE = "demo/index.html"
COLLECTION = "demo"
MODEL = "t2i_mini"
LIMIT = 5
QUERIES = (
    "a dog on the grass",
    "una tarta de cumpleaños y un globo",
    "大熊猫",
    "ein Segelboot auf dem Meer",
    "una farfalla su un fiore",
    "a rocket at night",
    "un vaso de vino y una pizza",
    "ein roter Doppeldecker",
)
TITLE = "Type words, get the matching images"
NOTE = (
    "Questions in five languages about photographs and drawings. The words are compared with the images "
    "themselves, not with file names. The model, t2i_mini, is a small one for trying things offline: it "
    "knows a thousand kinds of things; it is not CLIP, and its quality is not CLIP's."
)
STEPS = (
    ("Insert your own folder", "t2i insert ~/Pictures --model-name t2i_mini"),
    ("Search it on a page in the browser", "t2i ui --model-name t2i_mini"),
    ("Use OpenAI's CLIP (a download of 600 MB, once)", "t2i insert ~/Pictures --uri clip.db"),
)
"""What to do next, and the command."""
