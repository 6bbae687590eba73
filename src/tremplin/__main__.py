"""``python -m tremplin``"""

from tremplin.cli.main import run

run()
