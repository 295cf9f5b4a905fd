-- A control database of mlora-ray 0.1.0, from before there were migrations: two jobs, one of them half trained.
BEGIN TRANSACTION;
CREATE TABLE bundles (
	job VARCHAR(255) NOT NULL, 
	step INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	uri TEXT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	is_final BOOLEAN NOT NULL, 
	is_kept BOOLEAN NOT NULL, 
	PRIMARY KEY (job, step, epoch), 
	FOREIGN KEY(job) REFERENCES jobs (name)
);
INSERT INTO "bundles" VALUES('a',3,1,'bundles/a/3','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',0,1);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	at_s DOUBLE NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	job VARCHAR(255) NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	epoch INTEGER NOT NULL, 
	detail TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "events" VALUES(1,2.0,'placed','a','cpu-0',1,'');
INSERT INTO "events" VALUES(2,3.0,'saved','a','cpu-0',1,'step=3');
CREATE TABLE jobs (
	name VARCHAR(255) NOT NULL, 
	place_in_file INTEGER NOT NULL, 
	spec TEXT NOT NULL, 
	spec_sha256 VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	epoch INTEGER NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	step INTEGER NOT NULL, 
	bundle_uri TEXT NOT NULL, 
	weights_sha256 VARCHAR(64) NOT NULL, 
	error TEXT NOT NULL, 
	num_tokens BIGINT NOT NULL, 
	submitted_at_s DOUBLE NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "jobs" VALUES('a',0,'{"type":"JobSpec","name":"a","base":{"type":"BaseSpec","name":"tiny-llama","path":"/nowhere","dtype":"float32"},"lora":{"type":"LoraSpec","r":4,"lora_alpha":8.0,"lora_dropout":0.0,"use_rslora":false,"target_modules":["all-linear"],"layers_to_transform":[],"rank_pattern":[],"init_lora_weights":"kaiming"},"train":{"type":"TrainSpec","learning_rate":0.0002,"loraplus_lr_ratio":1.0,"lr_scheduler_type":"linear","warmup_ratio":0.0,"weight_decay":0.0,"max_grad_norm":1.0,"optim":"adamw","batch_size":1,"gradient_accumulation_steps":1,"num_epochs":3.0,"max_steps":10,"max_length":1024,"eval_steps":0,"save_steps":3,"seed":42,"completion_only_loss":true},"train_rows":{"type":"RowsRef","uri":"","sha256":"0000000000000000000000000000000000000000000000000000000000000000","source":"a.jsonl","num_rows":4,"num_tokens":32,"num_target_tokens":16,"num_truncated":0,"max_row_tokens":8},"eval_rows":null,"total_steps":10,"nano_batch_tokens":512,"tenant":"default","priority":0,"deadline_at_s":null,"device_type":""}','634445c319aca2fdef520b07794b70f3b20b4e8d5bf2161d65899fa6095b3cd8','PAUSED',1,'cpu-0',3,'bundles/a/3','','',24,1.0);
INSERT INTO "jobs" VALUES('b',1,'{"type":"JobSpec","name":"b","base":{"type":"BaseSpec","name":"tiny-llama","path":"/nowhere","dtype":"float32"},"lora":{"type":"LoraSpec","r":4,"lora_alpha":8.0,"lora_dropout":0.0,"use_rslora":false,"target_modules":["all-linear"],"layers_to_transform":[],"rank_pattern":[],"init_lora_weights":"kaiming"},"train":{"type":"TrainSpec","learning_rate":0.0002,"loraplus_lr_ratio":1.0,"lr_scheduler_type":"linear","warmup_ratio":0.0,"weight_decay":0.0,"max_grad_norm":1.0,"optim":"adamw","batch_size":1,"gradient_accumulation_steps":1,"num_epochs":3.0,"max_steps":10,"max_length":1024,"eval_steps":0,"save_steps":3,"seed":42,"completion_only_loss":true},"train_rows":{"type":"RowsRef","uri":"","sha256":"0000000000000000000000000000000000000000000000000000000000000000","source":"b.jsonl","num_rows":4,"num_tokens":32,"num_target_tokens":16,"num_truncated":0,"max_row_tokens":8},"eval_rows":null,"total_steps":10,"nano_batch_tokens":512,"tenant":"default","priority":0,"deadline_at_s":null,"device_type":""}','869b144e3bbfd6934d567d41f23779d0eb9f389f35d6a6cceda778e6d31ad3cf','QUEUED',0,'',0,'','','',0,1.0);
CREATE TABLE run_facts (
	run INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	place INTEGER NOT NULL, 
	value VARCHAR(255) NOT NULL, 
	PRIMARY KEY (run, name), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO "run_facts" VALUES(1,'versions.torch',0,'2.13.0');
INSERT INTO "run_facts" VALUES(1,'native_kernels',1,'True');
CREATE TABLE runs (
	id INTEGER NOT NULL, 
	command TEXT NOT NULL, 
	base VARCHAR(255) NOT NULL, 
	base_sha256 VARCHAR(64) NOT NULL, 
	device VARCHAR(32) NOT NULL, 
	threads INTEGER NOT NULL, 
	started_at_s DOUBLE NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "runs" VALUES(1,'mlora-ray train jobs.yaml','tiny-llama:float32','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','cpu',2,1.5);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE steps (
	job VARCHAR(255) NOT NULL, 
	step INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	data_epoch DOUBLE NOT NULL, 
	loss DOUBLE NOT NULL, 
	learning_rate DOUBLE NOT NULL, 
	grad_norm DOUBLE NOT NULL, 
	num_tokens INTEGER NOT NULL, 
	num_target_tokens INTEGER NOT NULL, 
	seconds DOUBLE NOT NULL, 
	eval_loss DOUBLE, 
	PRIMARY KEY (job, step), 
	FOREIGN KEY(job) REFERENCES jobs (name)
);
INSERT INTO "steps" VALUES('a',1,1,0.25,1.0,0.1,1.0,8,4,0.01,NULL);
INSERT INTO "steps" VALUES('a',2,1,0.5,0.5,0.05,1.0,8,4,0.01,NULL);
INSERT INTO "steps" VALUES('a',3,1,0.75,3.33333333333333314829e-01,3.33333333333333328707e-02,1.0,8,4,0.01,NULL);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX events_by_job ON events (job, id);
COMMIT;
