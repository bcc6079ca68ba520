"""Settings of the gateway; see the module of each field for what it does."""

from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from mesh.config import Settings


class GatewaySettings(Settings):
    """Fields of `INFERMESH_GATEWAY_*`; a gateway that checks keys refuses to start without one."""

    service: ClassVar[str] = "gateway"

    port: int = Field(8080, ge=0, le=65535, description="HTTP port; 0 takes a free one")
    auth: Literal["on", "off"] = Field("on", description="off answers everyone")
    dev_key: SecretStr = Field(SecretStr(""), description="API key of the tenant `dev`")
    admin_key: SecretStr = Field(SecretStr(""), description="API key of the tenant `admin`")
    request_timeout_s: float = Field(300.0, gt=0, le=3600, description="longest life of a request")
    default_max_tokens: int = Field(1024, ge=1, description="chat answers without max_tokens")
    default_completion_tokens: int = Field(256, ge=1, description="completions without max_tokens")
    retrieval_top_k: int = Field(1, ge=1, le=100, description="passages of a request without top_k")
    min_answer_tokens: int = Field(64, ge=1, description="room that passages leave for the answer")
    cache_timeout_s: float = Field(0.3, gt=0, le=10, description="longest wait for the cache")
    max_body_bytes: int = Field(8 * 2**20, ge=1024, description="largest JSON body")
    max_document_bytes: int = Field(
        24 * 2**20, ge=1024, le=30 * 2**20, description="largest document; gRPC carries 32 MiB"
    )
    keep_alive_s: float = Field(15.0, gt=0, description="silence before a comment on a stream")
    write_timeout_s: float = Field(30.0, gt=0, description="longest wait for a slow reader")
    max_waiting: int = Field(1024, ge=1, description="jobs in the queue; more are refused")
    max_waiting_tokens: int = Field(
        4_000_000, ge=1024, description="KV tokens they may come to need"
    )
    cors_origins: str = Field(
        "", description="origins of pages that may call, with commas between; * for all, none: off"
    )
    encoder_id: str = Field("all-MiniLM-L6-v2", description="name of the embedding model")

    @property
    def allowed_origins(self) -> list[str]:
        """The origins that `cors_origins` names."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @model_validator(mode="after")
    def _keys(self) -> Self:
        dev, admin = self.dev_key.get_secret_value(), self.admin_key.get_secret_value()
        if self.auth == "on" and not dev and not admin:
            raise ValueError(
                "set INFERMESH_GATEWAY_DEV_KEY or INFERMESH_GATEWAY_ADMIN_KEY,"
                " or INFERMESH_GATEWAY_AUTH=off to answer everyone"
            )
        if dev and dev == admin:
            raise ValueError("INFERMESH_GATEWAY_DEV_KEY and _ADMIN_KEY must differ")
        return self
