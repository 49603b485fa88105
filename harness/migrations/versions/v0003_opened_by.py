"""Which key opened a session, and an index of open sessions: how many a key may have is counted."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("opened_by", sa.String(40)))
    still_open = sa.text("closed_at IS NULL")
    op.create_index(
        "ix_sessions_open",
        "sessions",
        ["opened_by"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
