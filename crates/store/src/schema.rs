//! The tables that diesel's query builder is used for. The rest is SQL, laid out to be read.

diesel::table! {
    webhooks (id) {
        id -> Uuid,
        user_id -> Text,
        url -> Text,
        events -> Array<Text>,
        description -> Nullable<Text>,
        active -> Bool,
        disabled_reason -> Nullable<Text>,
        secret -> Binary,
        secret_key_id -> Text,
        previous_secret -> Nullable<Binary>,
        previous_secret_key_id -> Nullable<Text>,
        previous_secret_until -> Nullable<Timestamptz>,
        revision -> BigInt,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    idempotency_keys (user_id, key) {
        user_id -> Text,
        key -> Text,
        fingerprint -> Binary,
        webhook_id -> Uuid,
        created_at -> Timestamptz,
    }
}
