# Completion of mcp-tunnel-relay for bash; generated from relay/config.def.

_mcp_tunnel_relay()
{
	local cur prev

	COMPREPLY=()
	cur=${COMP_WORDS[COMP_CWORD]}
	prev=${COMP_WORDS[COMP_CWORD - 1]}
	case $prev in
	--tls-cert|--tls-key|--state-dir|--audit-hash-key-file|--config)
		COMPREPLY=($(compgen -f -- "$cur"))
		return
		;;
	--tls-min)
		COMPREPLY=($(compgen -W '1.3 1.2' -- "$cur"))
		return
		;;
	--agent-auth)
		COMPREPLY=($(compgen -W 'bearer none' -- "$cur"))
		return
		;;
	--audit-on-failure)
		COMPREPLY=($(compgen -W 'deny continue' -- "$cur"))
		return
		;;
	--audit-sync)
		COMPREPLY=($(compgen -W 'off interval each' -- "$cur"))
		return
		;;
	--audit-read-back)
		COMPREPLY=($(compgen -W 'disk any off' -- "$cur"))
		return
		;;
	--audit-hash)
		COMPREPLY=($(compgen -W 'hmac-sha256-jcs sha256-jcs' -- "$cur"))
		return
		;;
	--log-level)
		COMPREPLY=($(compgen -W 'error warning notice info debug' -- "$cur"))
		return
		;;
	--listen|--public-url|--allowed-origin|--cors-origin|--max-connections|--max-connections-per-address|--head-timeout|--body-timeout|--idle-timeout|--send-timeout|--hold|--resume-grace|--keepalive|--max-request-bytes|--max-streams|--max-streams-per-agent|--agent-rate|--tunnel-rate|--drain-timeout|--audit|--admin-listen|--tunnel|--old-for|--admin)
		return
		;;
	tunnel)
		COMPREPLY=($(compgen -W 'add list rotate remove' -- "$cur"))
		return
		;;
	agent)
		COMPREPLY=($(compgen -W 'add list remove' -- "$cur"))
		return
		;;
	status)
		COMPREPLY=($(compgen -W '--state-dir --admin --json' -- "$cur"))
		return
		;;
	esac
	COMPREPLY=($(compgen -W 'tunnel agent status --listen --tls-cert --tls-key --tls-min --behind-proxy --public-url
		--allowed-origin --cors-origin --max-connections --max-connections-per-address --head-timeout
		--body-timeout --idle-timeout --send-timeout --state-dir --agent-auth --hold --resume-grace
		--keepalive --max-request-bytes --max-streams --max-streams-per-agent --agent-rate --tunnel-rate
		--drain-timeout --audit --audit-on-failure --audit-sync --audit-read-back --audit-hash
		--audit-hash-key-file --admin-listen --log-level --config --check-config --print-config --doctor
		--json --version --help --tunnel --old-for --end-old --json --admin' -- "$cur"))
}
complete -o filenames -F _mcp_tunnel_relay mcp-tunnel-relay
