-- A receipt is asked for by its id, or by how that begins: a range of ids.
create index hold_receipt on hold (receipt) where receipt is not null;
