"""HTML as a browser's parser sees it: which tags there are, what they load, what they say."""

from html.parser import HTMLParser

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h3", "p", "div", "section", "ol", "li"),
    *("span", "b", "bdi", "img"),
}
ATTRIBUTES = {
    *("lang", "charset", "name", "content", "http-equiv", "class", "style", "title"),
    *("src", "alt", "width", "height"),
}


class Parsed(HTMLParser):
    """A page, parsed.

    :ivar tags: names in order.
    :ivar attributes: (tag, name, value) in order.
    :ivar text: what stands between tags, without style sheets.
    :ivar styles: the style sheets.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.styles = [], [], "", ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "style" and "{" in data:
            self.styles += data
        else:
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, one, value in self.attributes if one == name]

    def sees(self, text: str) -> bool:
        return text in self.text or any(text in (value or "") for *_, value in self.attributes)


def assert_harmless(page: str) -> Parsed:
    """Nothing but the tags and attributes of our templates; images from the page itself alone."""
    parsed = Parsed(page)
    assert set(parsed.tags) <= TAGS
    assert {name for _, name, _ in parsed.attributes} <= ATTRIBUTES
    assert all(source.startswith("data:image/webp;base64,") for source in parsed.values("src"))
    assert all(
        set(style) <= set("abcdefghijklmnopqrstuvwxyz0123456789:;-#% ") for style in parsed.values("style")
    )
    assert "url(" not in parsed.styles
    assert "@import" not in parsed.styles
    page.encode("utf-8")
    return parsed
