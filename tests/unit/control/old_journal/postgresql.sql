-- Dumped with pg_dump from the schema that Ostler wrote under DBOS 3.4.0 until it was killed.
CREATE SCHEMA dbos;
CREATE TABLE dbos.operation_outputs (
    workflow_uuid text NOT NULL,
    function_id integer NOT NULL,
    function_name text DEFAULT ''::text NOT NULL,
    output text,
    error text,
    child_workflow_id text,
    started_at_epoch_ms bigint,
    completed_at_epoch_ms bigint,
    serialization text,
    application_name text,
    retention_timestamp bigint DEFAULT ((EXTRACT(epoch FROM now()) * 1000.0))::bigint NOT NULL
);
INSERT INTO dbos.operation_outputs VALUES ('11111111-1111-4111-8111-111111111111', 1, 'choose', '{"value":{"host":"h1","ids":[1,"é"]}}', NULL, NULL, 1795777419063, 1795777419084, 'portable_json', 'ostler', 1795777419091);
INSERT INTO dbos.operation_outputs VALUES ('22222222-2222-4222-8222-222222222222', 1, 'only', '{"value":"x"}', NULL, NULL, 1795777419083, 1795777419123, 'portable_json', 'ostler', 1795777419127);
INSERT INTO dbos.operation_outputs VALUES ('11111111-1111-4111-8111-111111111111', 2, 'nothing', '{"value":null}', NULL, NULL, 1795777419118, 1795777419208, 'portable_json', 'ostler', 1795777419213);
INSERT INTO dbos.operation_outputs VALUES ('11111111-1111-4111-8111-111111111111', 3, 'fails', '{"error":"{\"code\": 9, \"message\": \"the disk is on fire\", \"details\": [{\"@type\": \"type.googleapis.com/google.rpc.ErrorInfo\", \"reason\": \"ON_FIRE\", \"domain\": \"ostler\", \"metadata\": {\"disk\": \"vda\"}}]}"}', NULL, NULL, 1795777419221, 1795777419240, 'portable_json', 'ostler', 1795777419241);
ALTER TABLE ONLY dbos.operation_outputs
    ADD CONSTRAINT operation_outputs_pkey PRIMARY KEY (workflow_uuid, function_id);
CREATE INDEX idx_operation_outputs_completed_at_function_name_v2 ON dbos.operation_outputs USING btree (completed_at_epoch_ms, function_name) INCLUDE (application_name);
CREATE INDEX idx_operation_outputs_retention ON dbos.operation_outputs USING btree (retention_timestamp);
