"""Label Studio behind gunicorn: runs in Label Studio's own environment, once, before the workers are forked.

`label-studio start` serves with Django's development server: one process, so one core, whatever the machine has.
"""

import sys

from django.db import connections
from label_studio.core.utils.params import get_env
from label_studio.server import main

# What `start` does before it serves: migrate where needed, then see to the user and the token of the environment.
sys.argv = ["label-studio", "init", "--quiet"]
main()

import dethrone_middleware  # noqa: E402  (what follows is configured by main)
import dethrone_reach  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db.models.signals import pre_save  # noqa: E402
from django.urls import get_resolver  # noqa: E402

if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Two processes write. A transaction that starts as a reader cannot wait for its turn to write: SQLite refuses it at
    # once with "database is locked". One that starts as a writer waits.
    connections["default"].settings_dict["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 30}
_ = get_resolver().url_patterns  # loads every view, and with them every module that has a guard's name
dethrone_reach.open_only(dethrone_reach.ours(get_env))
pre_save.connect(dethrone_middleware.keep_author, sender=dethrone_middleware.Annotation)
settings.MIDDLEWARE = [*settings.MIDDLEWARE, "dethrone_middleware.LabelersOnlyLabel"]

connections.close_all()  # a connection must not cross a fork

application = get_wsgi_application()
