-- Who was let in. Times are Unix milliseconds.

-- One line that lets somebody in; only the hash of its secret is kept.
create table invite (
    secret_hash bytea primary key check (octet_length(secret_hash) = 32),
    label       text not null,
    uses_left   integer not null check (uses_left >= 0),
    -- Absent: as long as the network.
    expires_at  bigint,
    created_at  bigint not null
);

create table enrolled_member (
    member      text collate "C" primary key,
    did         text not null unique,
    -- Only of a member that joined without a device.
    transport   text unique,
    invite      bytea not null references invite,
    enrolled_at bigint not null
);

create table enrolled_device (
    device       text collate "C" primary key,
    did          text not null unique,
    member       text collate "C" not null references enrolled_member,
    -- One login key is one device's.
    transport    text not null unique,
    name         text not null,
    claimed_tier smallint not null check (claimed_tier between 0 and 4),
    invite       bytea not null references invite,
    enrolled_at  bigint not null
);
create index enrolled_device_member on enrolled_device (member);

-- Bearer tokens for HTTP: one per enrolment, kept as a hash.
create table token (
    hash       bytea primary key check (octet_length(hash) = 32),
    member     text collate "C" not null references enrolled_member,
    -- The device or member that enrolled.
    holder     text collate "C" not null unique,
    expires_at bigint not null
);
