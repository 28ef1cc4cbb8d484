-- Dumped from a dbos.sqlite that Ostler wrote under DBOS 3.4.0 until it was killed.
CREATE TABLE "operation_outputs" (
    workflow_uuid TEXT NOT NULL,
    function_id INTEGER NOT NULL,
    function_name TEXT NOT NULL DEFAULT '',
    output TEXT,
    error TEXT,
    child_workflow_id TEXT,
    started_at_epoch_ms INTEGER,
    completed_at_epoch_ms INTEGER,
    serialization TEXT,
    application_name TEXT DEFAULT NULL,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    PRIMARY KEY (workflow_uuid, function_id)
);
INSERT INTO "operation_outputs" VALUES('22222222-2222-4222-8222-222222222222',1,'only','{"value":"x"}',NULL,NULL,1795777406505,1795777406507,'portable_json','ostler',1795777406000);
INSERT INTO "operation_outputs" VALUES('11111111-1111-4111-8111-111111111111',1,'choose','{"value":{"host":"h1","ids":[1,"é"]}}',NULL,NULL,1795777406497,1795777406520,'portable_json','ostler',1795777406000);
INSERT INTO "operation_outputs" VALUES('11111111-1111-4111-8111-111111111111',2,'nothing','{"value":null}',NULL,NULL,1795777406531,1795777406532,'portable_json','ostler',1795777406000);
INSERT INTO "operation_outputs" VALUES('11111111-1111-4111-8111-111111111111',3,'fails','{"error":"{\"code\": 9, \"message\": \"the disk is on fire\", \"details\": [{\"@type\": \"type.googleapis.com/google.rpc.ErrorInfo\", \"reason\": \"ON_FIRE\", \"domain\": \"ostler\", \"metadata\": {\"disk\": \"vda\"}}]}"}',NULL,NULL,1795777406543,1795777406558,'portable_json','ostler',1795777406000);
CREATE INDEX idx_operation_outputs_retention
    ON operation_outputs (retention_timestamp);
CREATE INDEX "idx_operation_outputs_completed_at_function_name_v2" ON "operation_outputs" ("completed_at_epoch_ms", "function_name", "application_name");
