-- Sessions of operators in the console. What the cookie holds is not here: its SHA-256 finds the
-- row. Rows go when somebody signs in after their end.
create table console_sessions (
    digest bytea primary key check (octet_length(digest) = 32),
    -- Empty where the token has no name.
    operator text not null,
    -- Of an access token, as its claim; null where the token opens everything.
    scopes text,
    source text not null,
    -- The key and the id of an access token; null for a static token.
    kid text,
    jti text,
    -- SHA-256 of the session's id with the token, or with what checks the access token.
    seal bytea not null check (octet_length(seal) = 32),
    address text not null,
    signed_in_at timestamptz not null,
    last_used_at timestamptz not null,
    -- Unless it is used before.
    ends_at timestamptz not null,
    -- However much it is used.
    expires_at timestamptz not null check (ends_at <= expires_at)
);
create index console_sessions_end on console_sessions (ends_at);
create index console_sessions_operator on console_sessions (operator, signed_in_at);
