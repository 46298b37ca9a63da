-- The same text runs on SQLite and on PostgreSQL.

-- How many grants of the campaign can be claimed, and were not yet. Processes of the version before do not count while they
-- are replaced one by one; `campaign rebuild --swap` does.
alter table campaign add column claimable bigint not null default 0;
update campaign set claimable = counted.grants
from (select campaign_id, count(*) as grants from token_grant where state = 'claimable' group by campaign_id) counted
where counted.campaign_id = campaign.campaign_id;

-- What can be claimed waits for its player: it needs nobody's attention, though it may have before it could be claimed.
update token_grant set needs_attention_since = null where state = 'claimable' and needs_attention_since is not null;
