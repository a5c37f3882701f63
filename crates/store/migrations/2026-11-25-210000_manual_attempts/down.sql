DROP TABLE manual_attempts;
