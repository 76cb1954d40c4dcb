"""A few API pages in the layout of the package reader, and one of prose, for the dataset tests."""

from ragtune.records import Chunk, Document, content_id

FETCH = """`shop.Cart.fetch(item, *, limit=5, retries=2, region='north')`  (method)

Collects every matching article from the warehouse and its branches. It is quick.

Parameters:
- `item` (str): The article number printed on the shelf label.
- `limit` (int, default 5): The largest number of articles that one call brings back.
- `retries` (int, default 2): How often a broken connection is tried again.
- `region` (Literal['north', 'south'], default 'north'): Which branch of the shop is asked first.

Returns:
- list[Article]: The articles found, ordered by their price.

Raises:
- LookupError: If the warehouse knows no article with this number.
"""

CART = """`shop.Cart`  (class)

A basket that remembers what a customer wants to buy until the order is paid.

Methods: `fetch`, `empty`

Bases: `Container`
"""

EMPTY = """`shop.Cart.empty(force)`  (method)

Removes all articles and tells the warehouse that they are free again.

Parameters:
- `force` (bool): Whether articles that are already packed are unpacked too.
"""

PROSE = """# Running the shop

## Opening hours

A branch is a shop that keeps its own stock and opens on its own days. To open a branch early, send the
keeper a signed note on the evening before. If the keeper is ill, the warehouse opens the doors at nine.

- **Stock book**: a bound list of every article that a branch owns at midnight.

| Branch | Colour |
| --- | --- |
| North gate | deep green |
| South gate | pale red |
"""


def document(title: str, text: str, kind: str = "api") -> Document:
    """Return a document with ids as the readers make them."""
    return Document(
        id=content_id("test", title),
        source="test",
        path=title,
        title=title,
        text=text,
        sha256=content_id(text),
        topic="shop",
        kind=kind,
    )


def chunk(of: Document) -> Chunk:
    """Return the whole document as one chunk."""
    return Chunk(
        id=content_id(of.id, of.text),
        document_id=of.id,
        source="test",
        title=of.title,
        heading_path=(of.title,),
        text=of.text,
        position=0,
        topic=of.topic,
    )


def shop() -> list[Document]:
    """Return the four documents."""
    return [
        document("shop.Cart.fetch", FETCH),
        document("shop.Cart", CART),
        document("shop.Cart.empty", EMPTY),
        document("Running the shop", PROSE, "prose"),
    ]


def articles(count: int, words: int = 24) -> list[Document]:
    """Return functions that have next to nothing in common."""
    return [
        document(
            f"store.part{i}.call_{i}",
            f"`store.part{i}.call_{i}(size_{i}=1{i})`  (function)\n\n"
            + f"Moves parcel{i}a, parcel{i}b and parcel{i}c over ramp{i} "
            + " ".join(f"word{i}x{j}" for j in range(words))
            + f".\n\nParameters:\n- `size_{i}` (float, default 1{i}): The width{i} of the door{i} in metres{i}.\n",
        )
        for i in range(count)
    ]
