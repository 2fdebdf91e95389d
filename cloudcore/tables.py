"""The cloud's SQL tables. Rows are written through Core: validating models per row would cost more than the row."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Text
from sqlmodel import Field, SQLModel

SERIAL = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only for INTEGER


class DeviceReport(SQLModel, table=True):
    """One property value that a device reported. (node, incarnation, seq) names the report; ``id`` is arrival order."""

    __tablename__ = "device_report"
    __table_args__ = (Index("device_report_by_device", "namespace", "device", "at_ms"),)

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    node: str = Field(sa_column=Column(Text, nullable=False))
    incarnation: str = Field(sa_column=Column(Text, nullable=False))
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    namespace: str = Field(sa_column=Column(Text, nullable=False))
    device: str = Field(sa_column=Column(Text, nullable=False))
    uid: str = Field(sa_column=Column(Text, nullable=False))
    at_ms: int = Field(sa_column=Column(BigInteger, nullable=False))  # the edge's wall clock, for people
    version: int = Field(sa_column=Column(BigInteger, nullable=False))
    property: str = Field(sa_column=Column(Text, nullable=False))
    value: str = Field(sa_column=Column(Text, nullable=False))


class HistoryGap(SQLModel, table=True):
    """A range of messages that an edge declared dropped, so that history never hides a hole."""

    __tablename__ = "history_gap"

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    node: str = Field(sa_column=Column(Text, nullable=False))
    incarnation: str = Field(sa_column=Column(Text, nullable=False))
    at_ms: int = Field(sa_column=Column(BigInteger, nullable=False))  # the cloud's wall clock when it was told
    first: int = Field(sa_column=Column(BigInteger, nullable=False))  # the range of seq that is missing, both included
    last: int = Field(sa_column=Column(BigInteger, nullable=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))  # "bytes", "age", "restored" …


class PendingEffect(SQLModel, table=True):
    """A message whose work in the API is still to do: committed here first, so that its ack is true."""

    __tablename__ = "pending_effect"

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    node: str = Field(sa_column=Column(Text, nullable=False))
    incarnation: str = Field(sa_column=Column(Text, nullable=False))
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    kind: str = Field(sa_column=Column(Text, nullable=False))  # "event" | "register"
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class LinkMark(SQLModel, table=True):
    """How far the messages of one edge disk are applied."""

    __tablename__ = "link_mark"

    node: str = Field(sa_column=Column(Text, primary_key=True))
    incarnation: str = Field(sa_column=Column(Text, primary_key=True))
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))


class LinkCloud(SQLModel, table=True):
    """This database's incarnation; one row."""

    __tablename__ = "link_cloud"

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    incarnation: str = Field(sa_column=Column(Text, nullable=False))


class LinkNode(SQLModel, table=True):
    """Who may speak for a node (proto.link.log.NodeRecord), and the counters of its outgoing rows."""

    __tablename__ = "link_node"

    node: str = Field(sa_column=Column(Text, primary_key=True))
    incarnation: str = Field(default="", sa_column=Column(Text, nullable=False))
    cloud: str = Field(default="", sa_column=Column(Text, nullable=False))
    granted: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    acked: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    out_cloud: str = Field(default="", sa_column=Column(Text, nullable=False))  # whose ``out_seq`` it is
    out_seq: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    out_position: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))


class LinkOut(SQLModel, table=True):
    """One message waiting for a node."""

    __tablename__ = "link_out"

    node: str = Field(sa_column=Column(Text, primary_key=True))
    position: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    cloud: str = Field(sa_column=Column(Text, nullable=False))
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    kind: str = Field(sa_column=Column(Text, nullable=False))
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class DeviceOwner(SQLModel, table=True):
    """A node that has or had the Device with this uid."""

    __tablename__ = "device_owner"

    uid: str = Field(sa_column=Column(Text, primary_key=True))
    node: str = Field(sa_column=Column(Text, primary_key=True))


class WriteOutcome(SQLModel, table=True):
    """What became of one write at a node: a write is carried out once, however often it comes."""

    __tablename__ = "write_outcome"

    node: str = Field(sa_column=Column(Text, primary_key=True))
    journal: str = Field(sa_column=Column(Text, primary_key=True))  # of the disk that counts
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    result: bytes = Field(sa_column=Column(LargeBinary, nullable=False))  # proto.writes.WriteResult
    uid: str = Field(default="", sa_column=Column(Text, nullable=False))  # a created object's, at the node
    cloud_uid: str = Field(default="", sa_column=Column(Text, nullable=False))  # the same object's, here
