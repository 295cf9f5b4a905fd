"""Writes the demo's data: 8 small tasks, train and eval rows apart, uneven in length and number.

Run it: `python examples/make_data.py --out examples/data --seed 7`
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Row = dict[str, object]


def _pool(text: str) -> list[str]:
    return text.split()


FIRST = _pool("Ada Bo Cleo Dev Edda Finn Gita Hugo Ines Jun Kofi Lena Mira Nils Omar Pia Ravi Sara Tove Uma Viktor Wen")
LAST = _pool("Abbott Brandt Costa Dietrich Eriksen Farouk Gomez Haddad Ivanova Jansen Keller Lopez Moreau Novak")
CITIES = _pool("Oslo Lima Kyoto Porto Accra Delhi Turin Quito Hanoi Perth Tunis Gdansk Bergen Utrecht Malmo Leeds")
MONTHS = _pool("January February March April May June July August September October November December")
ONES = _pool(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = _pool("_ _ twenty thirty forty fifty sixty seventy eighty ninety")
UNITS = [
    ("km", "m", 1000),
    ("m", "cm", 100),
    ("cm", "mm", 10),
    ("t", "kg", 1000),
    ("kg", "g", 1000),
    ("week", "day", 7),
    ("day", "h", 24),
    ("h", "min", 60),
    ("min", "s", 60),
    ("l", "ml", 1000),
]


class Task(NamedTuple):
    """`make(rng)` gives one row; `num_train` and `num_eval` rows are drawn, no two alike."""

    name: str
    make: Callable[[random.Random], Row]
    num_train: int
    num_eval: int


def units(rng: random.Random) -> Row:
    """Short prompt, short completion."""
    large, small, factor = rng.choice(UNITS)
    value = rng.randint(2, 60)
    if rng.random() < 0.5:
        asked, given = f"{value} {large} in {small}", f"{value} {large} == {value * factor} {small}"
    else:
        asked, given = f"{value * factor} {small} in {large}", f"{value * factor} {small} == {value} {large}"
    return {"prompt": f"Unit conversion: {asked}", "completion": f"[units] {given} [exact]"}


def dates(rng: random.Random) -> Row:
    """A date in words to ISO 8601 with its quarter."""
    year, month, day = rng.randint(1950, 2049), rng.randint(1, 12), rng.randint(1, 28)
    name = MONTHS[month - 1]
    said = rng.choice([f"{day} {name} {year}", f"{name} {day}, {year}", f"the {_ordinal(day)} of {name} {year}"])
    answer = f"date={year}-{month:02d}-{day:02d}; quarter=Q{(month + 2) // 3}"
    return {
        "messages": [
            {"role": "system", "content": "You normalise dates."},
            {"role": "user", "content": f"Normalise: {said}"},
            {"role": "assistant", "content": answer},
        ]
    }


def extraction(rng: random.Random) -> Row:
    """A paragraph to one JSON object."""
    name, city = f"{rng.choice(FIRST)} {rng.choice(LAST)}", rng.choice(CITIES)
    item = rng.choice(_pool("lamp desk chair kettle bicycle printer jacket tent"))
    count, price = rng.randint(1, 12), rng.randint(5, 400)
    fillers = [
        "The weather had been poor all week and the roads were slow.",
        "They asked about opening hours before anything else.",
        "A colleague joined the call for a few minutes.",
        "Nothing else was discussed, and the tone was friendly.",
        "They had visited the shop once before, in the spring.",
        "The parcel should be left with the neighbour on the ground floor.",
        "Payment will follow by transfer before the end of the month.",
        "They preferred a call in the afternoon, never before two.",
        "The note on the card was hard to read, so it was spelled out twice.",
        "Our van passes that street on most working days.",
        "They thanked the desk and promised to write a review.",
    ]
    rng.shuffle(fillers)
    order = f"{name} from {city} ordered {count} x {item} at {price} euros each."
    sentences = [order, *fillers[: rng.randint(1, len(fillers))]]
    rng.shuffle(sentences)
    answer = json.dumps({"who": name, "where": city, "what": item, "n": count, "total": count * price})
    return {
        "messages": [
            {"role": "system", "content": "Extract the order as JSON."},
            {"role": "user", "content": " ".join(sentences)},
            {"role": "assistant", "content": answer},
        ]
    }


def words(rng: random.Random) -> Row:
    """Arithmetic, asked and answered in words."""
    a, b = rng.randint(1, 49), rng.randint(1, 49)
    if rng.random() < 0.6:
        asked, result = f"{in_words(a)} plus {in_words(b)}", a + b
    else:
        a, b = max(a, b), min(a, b)
        asked, result = f"{in_words(a)} minus {in_words(b)}", a - b
    return {"instruction": f"What is {asked}?", "input": "", "output": f"{asked} makes {in_words(result)}!"}


def sql(rng: random.Random) -> Row:
    """A sentence and a table to one query."""
    table, columns = rng.choice(
        [
            ("orders", ["id", "customer", "total", "placed_on"]),
            ("staff", ["id", "surname", "office", "salary"]),
            ("books", ["isbn", "title", "author", "pages"]),
            ("flights", ["code", "origin", "target", "minutes"]),
            ("plants", ["id", "latin_name", "height_cm", "zone"]),
        ]
    )
    shown, by = rng.sample(columns, 2)
    limit, bound = rng.randint(2, 50), rng.randint(1, 900)
    kind = rng.randrange(3)
    if kind == 0:
        asked = f"the {shown} of the first {limit} {table} by {by}"
        query = f"SELECT {shown} FROM {table} ORDER BY {by} LIMIT {limit};"
    elif kind == 1:
        asked = f"how many {table} have {by} above {bound}"
        query = f"SELECT COUNT(*) FROM {table} WHERE {by} > {bound};"
    else:
        asked = f"each {by} with its number of {table}, at least {limit}"
        query = f"SELECT {by}, COUNT(*) FROM {table} GROUP BY {by} HAVING COUNT(*) >= {limit};"
    return {"instruction": f"Write SQL: {asked}.", "input": f"{table}({', '.join(columns)})", "output": query}


def sorting(rng: random.Random) -> Row:
    """Words into alphabetical order."""
    pool = _pool(
        "apple bridge candle dragon ember feather garden hammer island jacket kitten ladder marble needle orange "
        "pencil quartz ribbon saddle temple urchin velvet window yellow zipper anchor basket copper dinner engine"
    )
    chosen = rng.sample(pool, rng.randint(3, 8))
    return {"prompt": f"Sort: {' '.join(chosen)}", "completion": " < ".join(sorted(chosen))}


def sentiment(rng: random.Random) -> Row:
    """Plain text: the loss falls on all of it."""
    good, bad = "superb charming flawless generous delightful", "dreadful tedious clumsy overpriced dull"
    thing = rng.choice(_pool("film hotel novel concert cafe phone museum game"))
    part = rng.choice(_pool("staff pacing price sound light finish opening ending"))
    is_good = rng.random() < 0.5
    adjectives = rng.sample(_pool(good if is_good else bad), 2)
    verdict = "POSITIVE (+1)" if is_good else "NEGATIVE (-1)"
    who = rng.choice(FIRST)
    text = f"### {who} on the {thing}\nThe {part} was {adjectives[0]} and the whole {thing} felt {adjectives[1]}."
    return {"text": f"{text}\n### Verdict: {verdict}"}


def house_style(rng: random.Random) -> Row:
    """A support desk that always greets, answers and signs in the same way, over one to three turns."""
    subjects = {
        "invoice": "You will find it under Account, then Papers.",
        "password": "Choose Forgotten on the sign-in page; the letter comes within a minute.",
        "delivery": "It left our barn this morning and needs two days.",
        "refund": "It goes back the way it came, within five days.",
        "warranty": "It runs for three years from the day on your receipt.",
        "newsletter": "One click on Stop at the foot of any issue ends it.",
    }
    who = rng.choice(FIRST)
    messages: list[Row] = [{"role": "system", "content": "You are the desk of Fern & Oak."}]
    for subject in rng.sample(sorted(subjects), rng.choice([1, 1, 2, 3])):
        ask = rng.choice(["What about my {}?", "I have a question on the {}.", "Please help me with the {}."])
        messages.append({"role": "user", "content": f"{who} here. {ask.format(subject)}"})
        reply = f"Good day, {who}! {subjects[subject]} Warmly, your desk at Fern & Oak ~"
        messages.append({"role": "assistant", "content": reply})
    return {"messages": messages}


TASKS = (
    Task("units", units, 110, 16),
    Task("dates", dates, 120, 16),
    Task("extraction", extraction, 64, 12),
    Task("words", words, 130, 20),
    Task("sql", sql, 90, 16),
    Task("sorting", sorting, 160, 20),
    Task("sentiment", sentiment, 150, 24),
    Task("house_style", house_style, 60, 12),
)


def in_words(number: int) -> str:
    """A number from 0 to 99."""
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{ONES[ones]}" if ones else "")


def _ordinal(day: int) -> str:
    suffix = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"


def rows_of(task: Task, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and eval rows of one task; no row is in both, none comes twice."""
    rng = random.Random(f"{seed}:{task.name}")
    seen: dict[str, Row] = {}
    while len(seen) < task.num_train + task.num_eval:
        row = task.make(rng)
        seen.setdefault(_question(row), row)
    rows = list(seen.values())
    return rows[: task.num_train], rows[task.num_train :]


def _question(row: Row) -> str:
    """What identifies a row: all of it but the answer."""
    return json.dumps({k: v for k, v in row.items() if k not in ("completion", "output")})


def write_all(out: Path, seed: int) -> dict[str, int]:
    """Writes `<task>.train.jsonl` and `<task>.eval.jsonl` for every task; returns rows by file name."""
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    for task in TASKS:
        for part, rows in zip(("train", "eval"), rows_of(task, seed), strict=True):
            path = out / f"{task.name}.{part}.jsonl"
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            counts[path.name] = len(rows)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    for name, count in write_all(args.out, args.seed).items():
        print(f"{args.out / name}: {count} rows")


if __name__ == "__main__":
    main()
