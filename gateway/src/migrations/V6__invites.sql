-- Invites that say whom they let in, and joiners that wait for an admin. Times are Unix milliseconds.

alter table invite
    add column role       text not null default 'member' check (role in ('owner', 'admin', 'auditor', 'member', 'guest')),
    -- Whose devices alone it lets in.
    add column device_of  text collate "C",
    add column approve    boolean not null default false,
    add column made_by    text collate "C" not null default 'operator',
    add column revoked_at bigint;

-- Who showed an invite that asks for approval. It has taken one use; the line stays after a refusal, and goes when its holder is let in.
create table join_wish (
    -- The device, or the member that brings none.
    holder     text collate "C" primary key,
    member     text collate "C" not null,
    transport  text not null,
    name       text not null,
    invite     bytea not null references invite,
    asked_at   bigint not null,
    state      text not null default 'waiting' check (state in ('waiting', 'approved', 'denied')),
    decided_by text collate "C",
    reason     text
);
