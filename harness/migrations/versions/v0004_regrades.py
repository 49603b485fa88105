"""An index of regrades alone: whoever asks for finished tests asks for them too; few have any."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    regraded = sa.text("type = 'test_regraded'")
    op.create_index(
        "ix_events_regraded",
        "events",
        ["session_id"],
        sqlite_where=regraded,
        postgresql_where=regraded,
    )
