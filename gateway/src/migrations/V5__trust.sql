-- Who may do what, who may no longer, and who did what. Times are Unix milliseconds.

alter table enrolled_member
    add column role text not null default 'member' check (role in ('owner', 'admin', 'auditor', 'member', 'guest')),
    -- JSON: since when, on whose word, why. Absent: not suspended.
    add column suspended text;

-- What somebody did to others; lines are added, never changed.
create table audit (
    id      bigint generated always as identity primary key,
    at      bigint not null,
    by      text collate "C" not null,
    did     text not null,
    about   text not null,
    outcome text not null,
    detail  text not null
);
