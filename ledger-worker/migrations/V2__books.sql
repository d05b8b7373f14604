-- Vesting, reviews, policies, checkpoints and the Merkle tree. Rows are never deleted: what is over has a closed_seq.
-- A database of version 1 is brought up from its own facts and messages.

alter table hold add column discount bigint check (discount >= 0);
alter table hold add column vests_at bigint;
update hold set discount = coalesce((f.body::jsonb ->> 'discount_mmana')::bigint, 0), vests_at = (f.body::jsonb ->> 'vests_at')::bigint
from fact f where f.job = hold.job and f.kind = 'settle';
alter table hold add check ((state = 'settled') = (paid is not null and fee is not null and discount is not null));
alter table hold add check (paid + fee <= amount);

-- Pay that is not available yet: one row a settled job.
create table vesting (
    job        bytea primary key,
    member     text collate "C" not null,
    at         bigint not null,
    amount     bigint not null check (amount > 0),
    opened_seq bigint not null,
    closed_seq bigint check (closed_seq >= opened_seq)
);
create index vesting_open on vesting (member) where closed_seq is null;

-- Pay that a person looks at: at most once a job.
create table review (
    job        bytea primary key,
    member     text collate "C" not null,
    amount     bigint not null check (amount > 0),
    opened_seq bigint not null,
    closed_seq bigint check (closed_seq >= opened_seq),
    released   boolean,
    check ((closed_seq is null) = (released is null))
);

create table policy (
    version integer primary key check (version >= 1),
    rules   jsonb not null,
    seq     bigint not null
);
insert into policy (version, rules, seq)
select (body::jsonb -> 'rules' ->> 'version')::integer, body::jsonb -> 'rules', seq from fact where kind in ('genesis', 'policy');

-- What the books are after message `seq`, as message `message_seq` states it.
create table checkpoint (
    seq         bigint primary key,
    message_seq bigint not null unique,
    chain       bytea not null check (length(chain) = 32),
    root        bytea not null check (length(root) = 32),
    state       bytea not null check (length(state) = 32),
    check (message_seq = seq + 1)
);
insert into checkpoint (seq, message_seq, chain, root, state)
select (body::jsonb ->> 'seq')::bigint, seq, decode(body::jsonb ->> 'chain', 'hex'), decode(body::jsonb ->> 'root', 'hex'),
       decode(body::jsonb ->> 'state', 'hex')
from fact where kind = 'checkpoint';

-- Complete subtrees of the RFC 6962 tree over the messages: level 0 are the leaves, message `idx + 1` each; `idx` of a level
-- covers the leaves from idx * 2^level on. Any proof is made of a few of these.
create table merkle (
    level smallint not null check (level between 0 and 62),
    idx   bigint not null check (idx >= 0),
    hash  bytea not null check (length(hash) = 32),
    primary key (level, idx)
);
insert into merkle (level, idx, hash) select 0, seq - 1, sha256('\x00'::bytea || envelope) from event;
do $$
declare
    below smallint := 0;
    made  bigint;
begin
    loop
        insert into merkle (level, idx, hash)
        select below + 1, l.idx / 2, sha256('\x01'::bytea || l.hash || r.hash)
        from merkle l join merkle r on r.level = below and r.idx = l.idx + 1
        where l.level = below and l.idx % 2 = 0;
        get diagnostics made = row_count;
        exit when made = 0;
        below := below + 1;
    end loop;
end
$$;

-- Vesting and reviews of a database that already knew them.
insert into vesting (job, member, at, amount, opened_seq)
select job, body::jsonb ->> 'payee', (body::jsonb ->> 'vests_at')::bigint, (body::jsonb ->> 'paid_mmana')::bigint, seq
from fact where kind = 'settle' and body::jsonb ->> 'vests_at' is not null and (body::jsonb ->> 'paid_mmana')::bigint > 0;
-- A vest fact names its jobs in text, where rows have bytes: such a database is made again from the stream.
do $$
begin
    if exists (select from fact where kind in ('vest', 'flag', 'review_release', 'review_seize')) then
        raise exception 'these rows are of a version between releases (next: mesh-ledger rebuild)';
    end if;
end
$$;
