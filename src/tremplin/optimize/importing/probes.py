"""Sentences every import is checked on: two languages, one word to two hundred, rare characters."""

from __future__ import annotations

from tremplin.optimize.importing.reference import Text
from tremplin.registry.task import Task

PROBES: tuple[str, ...] = (
    "Yes",
    "Non.",
    "ok",
    "Where is my parcel?",
    "Je voudrais résilier mon abonnement avant la fin du mois.",
    "The lighthouse keeper counted eleven ships before the fog came in.",
    "L'été dernier, nous avons traversé la Loire à vélo, de Nantes à Orléans.",
    "Refund!!! I was charged TWICE for order #48213-B (€39.90) and nobody answers.",
    "Call +33 1 44 55 66 77 or write to nobody@example.org before 18:30.",
    "it's 3.14159, isn't it? — well… “almost”",
    "Où sont passés les œufs ? Ça, c'est l'affaire de Noël.",
    "C:\\temp\\log.txt: error 0x80070057 at line 12; see https://example.org/a?b=1&c=%20d",
    "naïve façade jalapeño Übergröße smörgåsbord",
    "Το καράβι έφυγε νωρίς · корабль ушёл рано",
    "会议在星期三下午三点开始。",
    "👩‍🚀🚀 two emoji and a zero-width\u200bspace",
    "e\u0301te\u0301 (decomposed accents) and \ufb01ligree (a ligature)",
    "   leading spaces,\ttabs\nand a line break   ",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9",
    "Le train de 7 h 42 pour Grenoble est annoncé avec vingt minutes de retard en raison d'un incident de "
    "signalisation ; les voyageurs munis d'un billet non échangeable peuvent prendre le suivant sans frais.",
    "The committee met on Tuesday to discuss the budget, and although most members agreed that the library "
    "should stay open on Sundays, nobody could say where the money would come from.",
    "Plants turn light into sugar. Chlorophyll absorbs mostly red and blue light, which is why leaves look "
    "green. In the first stage, water is split and oxygen is released. In the second, carbon dioxide is fixed "
    "into sugar. Shade, drought and cold slow both stages, and a plant under stress closes its pores.",
    "La photosynthèse transforme la lumière en sucre. " * 30,
)

_QUESTIONS = (
    ("When does the train leave?", "The train to Grenoble leaves at 7:42 from platform three."),
    (
        "Qui a construit le phare ?",
        "Le phare fut construit en 1774 par les pêcheurs du village, puis rehaussé deux fois.",
    ),
    ("What releases oxygen?", PROBES[22]),
    ("How much was charged?", PROBES[7]),
    ("Où passe le canal ?", "Le canal longe la vieille ville. " * 25),
    ("Why?", "Because."),
)


def probes(task: Task, takes_pairs: bool) -> tuple[Text, ...]:
    """Return the texts to compare on: pairs where a task is about pairs, both when a classifier takes them."""
    if task in (Task.QUESTION_ANSWERING, Task.RERANKING):
        return _QUESTIONS + tuple((PROBES[i], PROBES[i + 1]) for i in range(0, len(PROBES) - 1, 2))
    return PROBES + _QUESTIONS if takes_pairs else PROBES
