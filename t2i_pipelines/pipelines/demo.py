"""What ``t2i demo`` inserts and asks."""

SOURCE = "data"
URI = "demo/milvus.db"
PAGE = "demo/index.html"
COLLECTION = "demo"
MODEL = "t2i_mini"
LIMIT = 5
QUERIES = (
    "a cat",
    "una tarta de cumpleaños y un globo",
    "公共汽车",
    "ein Schmetterling",
    "un ponte",
    "a rocket at night",
    "una moto roja",
    "a hamburger and french fries",
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
