"""The history of a plugin's tables: a folder of Alembic revisions, read without Alembic."""

from db_manager.migrations.history.folders import FOLDER as FOLDER
from db_manager.migrations.history.folders import folders as folders
from db_manager.migrations.history.folders import wheels as wheels
from db_manager.migrations.history.read import find as find
from db_manager.migrations.history.steps import History as History
from db_manager.migrations.history.steps import Step as Step
from db_manager.migrations.history.steps import version_table as version_table
