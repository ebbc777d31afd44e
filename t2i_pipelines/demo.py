"""What ``t2i demo`` inserts and asks."""

SOURCE = "data/gallery"
URI = "demo/milvus.db"
PAGE = "demo/index.html"
COLLECTION = "demo"
MODEL = "t2i_mini"
LIMIT = 5
QUERIES = (
    "a white dog",
    "a red apple and a bicycle",
    "un perro y una pelota",
    "一只猫",
    "ein Auto am Strand",
    "un girasole",
)
NOTE = "t2i_mini is a small model for trying things offline. It is not CLIP, and its quality is not CLIP's."
