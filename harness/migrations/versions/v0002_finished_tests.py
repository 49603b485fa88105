"""An index of finished tests alone: a new session's prompt asks for them; others need none."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    finished = sa.text("type = 'test_finished'")
    op.create_index(
        "ix_events_finished",
        "events",
        ["session_id"],
        sqlite_where=finished,
        postgresql_where=finished,
    )
