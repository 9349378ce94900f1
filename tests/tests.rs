//! All integration tests, in one binary so that libtorch is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::unreadable_literal,
    unreachable_pub,
    dead_code,
    reason = "a test may panic and show its figures; reference values are pasted as Python prints them"
)]

mod adapter_settings;
mod adapter_start;
mod answers;
mod architecture;
mod bad_input;
mod bootstrap;
mod cases;
mod chat_templates;
mod checkpoints;
mod command;
mod compare;
mod compare_judges;
mod compare_server;
mod confidence;
mod config_keys;
mod contradictions;
mod cpu_memory;
mod data_kinds;
mod distributed;
mod dreambench_scores;
mod encoder_kinds;
mod encoders;
mod eval;
mod eval_subject;
mod export;
mod faults;
mod fuzz;
mod gguf;
mod gguf_tokenizers;
mod gpu_memory;
mod heads;
mod help;
mod hostile_files;
mod hostile_numbers;
mod hub;
mod hub_names;
mod hub_server;
mod image_inputs;
mod image_pair_rows;
mod image_pairs;
mod iterate;
mod iterate_pairs;
mod iterate_replay;
mod jobs;
mod lm;
mod lora;
mod lora_files;
mod loss_command;
mod losses_image;
mod losses_text;
mod matrix_products;
mod names_elsewhere;
mod overlays;
mod photo;
mod pickles;
mod pipeline;
mod plan;
mod preprocess;
mod pretrain;
mod prompt_encoder;
mod rank_command;
mod rank_pairs;
mod ranking;
mod ranking_statistics;
mod reading;
mod recognize;
mod report;
mod resume;
mod reward_images;
mod reward_text;
mod reward_train;
mod rewards;
mod round_trips;
mod rounds_images;
mod sampling;
mod score;
mod separate_vae;
mod single_files;
mod subject;
mod support;
mod template_variables;
mod text_columns;
mod text_data;
mod text_robust;
mod text_rows;
mod text_train;
mod tiny_run;
mod tokenizer;
mod tokenizer_ends;
mod train;
mod training;
mod transforms;
mod unet;
mod vae;
mod world;
