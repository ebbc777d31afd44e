"""What ``t2i demo`` inserts and asks."""

SOURCE = "data/gallery"
URI = "demo/milvus.db"
PAGE = "demo/index.html"
COLLECTION = "demo"
MODEL = "t2i_mini"
LIMIT = 3
QUERIES = (
    "a hamburger and french fries",
    "una tarta de cumpleaños y un globo",
    "雪地里的企鹅",
    "ein Segelboot auf dem Meer",
    "un gatto e un tulipano",
    "a rocket at night",
)
NOTE = "t2i_mini is a small model for trying things offline. It is not CLIP, and its quality is not CLIP's."
