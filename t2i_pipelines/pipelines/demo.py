"""What ``t2i demo`` inserts and asks."""

SOURCE = "data/gallery"
URI = "demo/milvus.db"
PAGE = "demo/index.html"
COLLECTION = "demo"
MODEL = "t2i_mini"
LIMIT = 5
QUERIES = (
    "a hamburger and french fries",
    "una tarta de cumpleaños y un globo",
    "雪地里的企鹅",
    "ein Segelboot auf dem Meer",
    "un gatto e un tulipano",
    "a rocket at night",
)
TITLE = "Type words, get the matching images"
NOTE = (
    "Questions in five languages. The words are compared with the images themselves, not with file names. "
    "The model, t2i_mini, is a small one for trying things offline: it is not CLIP, and its quality is "
    "not CLIP's."
)
STEPS = (
    ("Insert your own folder", "t2i insert ~/Pictures --model-name t2i_mini"),
    ("Search it on a page in the browser", "t2i ui --model-name t2i_mini"),
    ("Use OpenAI's CLIP (a download of 600 MB, once)", "t2i insert ~/Pictures --uri clip.db"),
)
"""What to do next, and the command."""
